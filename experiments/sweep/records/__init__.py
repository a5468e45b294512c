"""The records of a sweep on disk: writing them, reading them, and locking their folder."""
