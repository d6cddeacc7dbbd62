"""The page in a browser: queries answered one after another, or any cloud looked at (docs/your-own-scans.md)."""
