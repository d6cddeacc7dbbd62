"""Evaluate: predictions against the truth, at grid points and at the original ones."""
