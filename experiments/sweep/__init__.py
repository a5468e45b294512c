"""Trains every combination of the axes and records how the gradient flows."""
