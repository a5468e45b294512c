"""Writes and reads the records of a sweep, and locks the sweep's folder."""
