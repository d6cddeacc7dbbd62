"""Spread: from the answers for a few points to class probabilities for all (docs/method.md, "Spreading answers")."""
