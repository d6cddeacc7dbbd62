"""The page in the browser, on which a person answers queries or views clouds (docs/your-own-scans.md)."""
