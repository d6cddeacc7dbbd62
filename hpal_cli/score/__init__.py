"""Scores how much a model would learn from the label of each point, from 0 to 1. Points with the largest scores are
labelled first."""
