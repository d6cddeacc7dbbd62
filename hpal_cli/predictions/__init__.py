"""Predictions: the class probabilities and features of every grid point, which are all that `score` and `select` need.
They contain no true labels."""
