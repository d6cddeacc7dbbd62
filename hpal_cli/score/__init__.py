"""Scores, from 0 to 1, how much a model would learn from the label of each point. The points with the largest scores
are labelled first."""
