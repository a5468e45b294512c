"""Training the runs of a sweep: one compiled program for each group, round after round."""
