"""The flags of a sweep, and the `Sweep` that they resolve to: settings, runs, networks, layout."""
