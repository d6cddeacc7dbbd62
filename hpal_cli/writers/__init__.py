"""Writers: they write points as files that viewers and spreadsheets read."""
