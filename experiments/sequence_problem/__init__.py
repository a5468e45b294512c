"""Sequence problems: tasks and networks out of flags, and how well they do."""
