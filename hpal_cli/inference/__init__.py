"""Inference: predicts class probabilities for every point of a scene with a trained network, in tiles if needed."""
