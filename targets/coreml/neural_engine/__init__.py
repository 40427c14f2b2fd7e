"""Shaping a graph for the Neural Engine, and saying what will likely leave it."""
