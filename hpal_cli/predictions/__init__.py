"""Predictions: what the network says of every grid point, and all that score and select need. No ground truth."""
