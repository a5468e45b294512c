"""Trains the runs of a sweep, group by group."""
