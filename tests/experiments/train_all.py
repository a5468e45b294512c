"""Helpers that compile a group of runs once, and train the runs as a sweep does.

A group is the set of runs that share one compiled program. Its runs are trained in rounds, each of
as many runs as the devices hold.
"""

from __future__ import annotations

import jax

from experiments.sweep.config.groups import by_group
from experiments.sweep.training.program import compile_group
from experiments.sweep.training.rounds import train_round

_programs = {}


def compile_once(runs, settings, tasks, layout, remat="none"):
  """Returns `compile_group` of these arguments, from a cache if it was compiled before.

  Most of the time of training tests is compilation. Programs are shared by tasks with the same
  settings, the same function that draws batches, and data of the same shapes and dtypes.
  """
  (group,) = by_group(runs)
  sizes = tuple((a.shape, a.dtype) for a in jax.tree.leaves(tasks.data))
  task = tasks.train
  about = *tasks.tests, task.batch.__qualname__, task.vocabulary_size, task.output_size, sizes
  devices = tuple(layout.devices), layout.data_parallel, layout.leading_axes(len(runs))
  key = group, settings, about, devices, remat
  if key not in _programs:
    _programs[key] = compile_group(runs, settings, tasks, layout, remat)
  return _programs[key]


def train_all(runs, settings, tasks, layout, program=None, **options):
  """Trains the runs of one group, round after round; returns their results in the order of `runs`.

  Args:
    runs: the runs.
    settings: the settings that they share.
    tasks: the tasks of the runs.
    layout: the devices.
    program: the group's compiled program; None to compile it.
    **options: further arguments of `train_round`.
  """
  program = program or compile_group(runs, settings, tasks, layout)
  results = {}
  for first in range(0, len(runs), program.runs_per_round):
    together = runs[first : first + program.runs_per_round]
    for result in train_round(program, together, settings, tasks, layout, **options):
      results[result.run] = result
  return [results[run] for run in runs]
