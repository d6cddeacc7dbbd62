"""Writers: points as the files that viewers and spreadsheets read."""
