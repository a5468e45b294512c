"""Settings and runs of small sweeps, for tests that build them without flags."""

from __future__ import annotations

import dataclasses

from experiments.sweep.config.run_tasks import RunTasks
from experiments.sweep.config.runs import Run, Settings


def make_run(
  cell="elman",
  depth=1,
  truncation=None,
  seed=0,
  learning_rate=0.01,
  clip_norm=1.0,
  recurrent_gain=1.0,
  forget_bias=None,
  clip_by="global_norm",
  options=(),
  **given,
):
  """Returns a run; the settings that are not given are those of a small run on the task adding."""
  numbers = truncation, seed, learning_rate, clip_norm, recurrent_gain, forget_bias
  small = {
    "task": "adding",
    "hidden_size": 8,
    "sequence_length": 12,
    "batch_size": 4,
    "steps": 110,
    "optimizer": "adam",
  }
  return Run(cell, depth, *numbers, clip_by, options, **small | given)


def make_settings(log_every=10, measures="lag", measure_every=15, **given):
  """Returns settings of a sweep that reads no text."""
  return Settings("stdlib", log_every, measures, measure_every, **given)


def tasks_of(task, length=12, **tests):
  """Returns the tasks of a run that trains on `task` and is evaluated at its own length."""
  return RunTasks(task, {length: task, **tests})


def changed(run, name):
  """Returns the run with another value of the field `name`."""
  value = getattr(run, name)
  kinds = {bool: True, int: 7, float: 0.25, str: "other", tuple: (("activation", "relu"),)}
  other = 7 if name == "truncation" else 0.25 if value is None else kinds[type(value)]
  assert other != value
  return dataclasses.replace(run, **{name: other})
