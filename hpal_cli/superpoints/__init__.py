"""Finds superpoints, which are connected pieces of surface within one object, describes them, and joins those that
touch into a graph."""
