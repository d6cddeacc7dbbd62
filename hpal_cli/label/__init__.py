"""Collects answers for the chosen points, from an oracle or a person, in a store to which answers are only added."""
