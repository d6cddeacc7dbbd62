"""Scenes: clouds on a grid, with a class table and splits, in one store."""
