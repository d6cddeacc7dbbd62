"""Export: any store as files that viewers and spreadsheets read, one file a scene."""
