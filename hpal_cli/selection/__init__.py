"""Selects the candidates with the highest scores within a budget, without those that say the same as a chosen one."""
