"""Functions that wrap a cell, or several cells, and return a new cell."""
