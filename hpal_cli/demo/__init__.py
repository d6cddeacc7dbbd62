"""A synthetic office building, so that every command can be tried and tested without data."""
