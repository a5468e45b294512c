"""The groups of a sweep: runs that share one compiled program.

Runs of the same cell, cell options, depth and `clip_by` are a group. Otherwise they differ
only in numeric settings, which are arguments of their program: see `training/run_setup.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.networks.cell_options import Options
from experiments.sweep.config.runs import Run

Group = tuple[str, int, str, Options]


def by_group(runs: Iterable[Run]) -> dict[Group, list[Run]]:
  """Returns the runs by group: (cell, depth, clip_by, options)."""
  found: dict[Group, list[Run]] = {}
  for run in runs:
    found.setdefault((run.cell, run.depth, run.clip_by, run.options), []).append(run)
  return found


def group_name(run: Run) -> str:
  """Returns what the runs of a run's group have in common, as text."""
  clipped = "" if run.clip_by == "global_norm" else f", clipped by {run.clip_by}"
  return f"{run.network}{clipped}"
