"""Synthetic studies: runs with given outcomes, without records on disk."""

from __future__ import annotations

import itertools

import numpy as np

from experiments.ablation.study import Factor, Outcome, Study


def outcome(values, better=-1, name="held_out_loss", high=None):
  low = np.asarray(values, float)
  return Outcome(name, name, "", better, low, low if high is None else np.asarray(high, float))


def grid(axes, seeds, outcomes, diverged=None):
  """Returns a study of a grid: `axes` is {setting: values}; the seed varies fastest."""
  points = list(itertools.product(*axes.values(), range(seeds)))
  columns = list(zip(*points, strict=True))
  return Study(
    runs=["-".join(map(str, point)) for point in points],
    seeds=list(columns[-1]),
    tasks=["adding"] * len(points),
    diverged=np.zeros(len(points), bool) if diverged is None else np.asarray(diverged),
    factors={
      name: Factor(list(values), list(column))
      for (name, values), column in zip(axes.items(), columns[:-1], strict=True)
    },
    outcomes=outcomes,
  )
