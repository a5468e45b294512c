"""Figures of one sweep, drawn from its records."""
