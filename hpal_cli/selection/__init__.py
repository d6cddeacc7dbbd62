"""Selects the candidates with the highest scores within a budget, without two that are near and look alike."""
