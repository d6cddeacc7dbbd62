"""Inference: a trained network's class probabilities for every point of a scene, tile by tile."""
