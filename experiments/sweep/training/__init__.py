"""Trains the runs of a sweep.

Runs that differ only in numeric settings, such as the seed or the learning rate, form a group and
share one compiled program. A round is a set of runs of one group that the devices train at the same
time. A group is trained in one or more rounds, one after the other.
"""
