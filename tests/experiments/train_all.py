"""Training the runs of a group round after round, as a sweep does."""

from __future__ import annotations

from experiments.sweep.training.program import compile_group
from experiments.sweep.training.rounds import train_round


def train_all(runs, settings, task, layout, program=None, **options):
  """Trains all runs; returns their results in the order of the runs."""
  program = program or compile_group(runs, settings, task, layout)
  results = {}
  for first in range(0, len(runs), program.runs_per_round):
    together = runs[first : first + program.runs_per_round]
    for result in train_round(program, together, settings, task, layout, **options):
      results[result.run] = result
  return [results[run] for run in runs]
