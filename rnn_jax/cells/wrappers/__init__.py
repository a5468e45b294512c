"""Cells made of cells."""
