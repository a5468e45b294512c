"""The command that compares a sweep's settings: effects, intervals, tests; see README.md."""
