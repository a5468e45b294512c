"""Cells made from other cells."""
