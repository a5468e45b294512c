"""Flags resolved to a `Sweep`: its settings, runs, groups, networks and layout on the devices."""
