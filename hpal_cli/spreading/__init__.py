"""Turns the answers for a few points into class probabilities for all points (docs/method.md, "Spreading answers")."""
