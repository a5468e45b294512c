"""Compiling a group once, and training its runs round after round, as a sweep does."""

from __future__ import annotations

import jax

from experiments.sweep.config.groups import by_group
from experiments.sweep.training.program import compile_group
from experiments.sweep.training.rounds import train_round

_programs = {}


def compile_once(runs, settings, task, layout):
  """Returns the program of a group from `compile_group`, compiled once in this process.

  Compilation is what most tests of training spend their time on. Two tasks are taken for the same
  if the settings, the function that draws their batches and the sizes of their data are.
  """
  (group,) = by_group(runs)
  sizes = tuple((a.shape, a.dtype) for a in jax.tree.leaves(task.data))
  about = task.batch.__qualname__, task.vocabulary_size, task.output_size, sizes
  devices = tuple(layout.devices), layout.data_parallel, layout.leading_axes(len(runs))
  key = group, settings, about, devices
  if key not in _programs:
    _programs[key] = compile_group(runs, settings, task, layout)
  return _programs[key]


def train_all(runs, settings, task, layout, program=None, **options):
  """Trains all runs; returns their results in the order of the runs."""
  program = program or compile_group(runs, settings, task, layout)
  results = {}
  for first in range(0, len(runs), program.runs_per_round):
    together = runs[first : first + program.runs_per_round]
    for result in train_round(program, together, settings, task, layout, **options):
      results[result.run] = result
  return [results[run] for run in runs]
