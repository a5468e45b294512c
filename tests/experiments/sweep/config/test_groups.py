"""Tests of groups: runs that share one compiled program."""

from __future__ import annotations

import itertools

from experiments.sweep.config.groups import by_group, group_name
from experiments.sweep.config.runs import Run

CELLS, DEPTHS, NUMBERS = ("elman", "gru"), (1, 2), ((8, 0), (None, 0), (None, 1))
RUNS = [
  Run(cell, depth, truncation, seed, 0.01, 1.0, 1.0, None)
  for cell, depth, (truncation, seed) in itertools.product(CELLS, DEPTHS, NUMBERS)
]


def test_runs_are_grouped_by_cell_depth_and_clip_by():
  groups = by_group(RUNS)
  assert list(groups) == [(c, d, "global_norm", ()) for c in CELLS for d in DEPTHS]
  assert {len(runs) for runs in groups.values()} == {3}


def test_a_group_is_named_by_what_its_runs_have_in_common():
  run = Run("gru", 2, 8, 0, 0.01, 1.0, 1.0, None, "carry", (("reset", "none"),))
  assert group_name(run) == "gru reset=none, depth 2, clipped by carry"
  assert {len({group_name(run) for run in runs}) for runs in by_group(RUNS).values()} == {1}
