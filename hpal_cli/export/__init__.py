"""Writes any store as files that viewers and spreadsheets read, one file for each scene."""
