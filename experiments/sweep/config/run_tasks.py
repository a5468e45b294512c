"""The tasks of a sweep's runs: one to train on, and one for each sequence length to evaluate at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import PyTree

from experiments.sweep.config.runs import Run
from rnn_jax.tasks import Task


class RunTasks(NamedTuple):
  """The tasks of a run.

  Attributes:
    train: the task to train on.
    tests: {sequence length: the task that draws batches of this length}, `train` first. Their
      batches are drawn from the held-out data of `train`, whatever the length.
  """

  train: Task
  tests: Mapping[int, Task]

  @property
  def data(self) -> PyTree:
    """Returns the arrays from which batches are drawn: (to train on, to evaluate on)."""
    return self.train.data, self.train.held_out


Key = tuple[str, int, int]  # (task, sequence length, batch size)


def key_of(run: Run) -> Key:
  """Returns what the tasks of a run depend on, besides the sweep's settings."""
  return run.task, run.sequence_length, run.batch_size
