"""The groups of a sweep: runs that share one compiled program.

Runs with the same cell, cell options, depth and `clip_by` form a group. They differ only in numeric
settings, such as the seed or the learning rate, which are arguments of the program: see `Numbers`
in `training/run_setup.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.networks.cell_options import Options
from experiments.sweep.config.runs import Run

Group = tuple[str, int, str, Options]  # (cell, depth, clip_by, options)


def by_group(runs: Iterable[Run]) -> dict[Group, list[Run]]:
  """Returns {group: its runs}, where a group is (cell, depth, clip_by, options)."""
  found: dict[Group, list[Run]] = {}
  for run in runs:
    found.setdefault((run.cell, run.depth, run.clip_by, run.options), []).append(run)
  return found


def group_name(run: Run) -> str:
  """Returns a name for the run's group, such as `gru reset=none, depth 2, clipped by carry`."""
  clipped = "" if run.clip_by == "global_norm" else f", clipped by {run.clip_by}"
  return f"{run.network}{clipped}"
