"""Trains the runs of a sweep.

Runs that differ only in numbers, such as the seed or the learning rate, form a group and share one
compiled program. A group is trained in rounds of as many runs as the devices hold.
"""
