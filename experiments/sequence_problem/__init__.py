"""The sequence problem command: trains on a problem, from one-to-one to encoder–decoder."""
