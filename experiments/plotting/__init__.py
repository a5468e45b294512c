"""Shared drawing code for figures: styles, panels, heat maps and lines."""
