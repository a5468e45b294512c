"""Experiment trackers, which show a sweep's runs while they train: TensorBoard, W&B and Trackio.

A tracker is a module with a function `open_run`, and imports its package only when it is called.
The driver reads what it tracks from the records, so that all engines are tracked alike, and so that
records do not depend on the tracker.
"""
