"""Style and lines of all figures."""
