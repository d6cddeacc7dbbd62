"""The page in the browser, on which queries are answered and clouds are viewed (docs/your-own-scans.md)."""
