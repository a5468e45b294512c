"""Experiments: sweeps over cell, depth and truncation, their records and figures."""
