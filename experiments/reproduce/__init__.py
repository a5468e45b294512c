"""The reproduce command: published figures and tables, computed and checked."""
