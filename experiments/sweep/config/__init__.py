"""From flags to a Sweep: axes, runs, groups, layout, networks."""
