"""Predictions: the class probabilities and features of every grid point, which is all that score and select need. They
hold no ground truth."""
