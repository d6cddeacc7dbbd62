"""Compares predictions with the truth, at the grid points and at the original points."""
