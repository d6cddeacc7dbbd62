"""Superpoints: connected pieces of surface that lie within one object, described and joined into a graph."""
