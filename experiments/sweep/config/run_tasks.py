"""The tasks of a sweep's runs: one to train on, and one for each sequence length to evaluate at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from experiments.cli import command_line
from experiments.sweep.config.runs import TEXT_TASK, Run, Settings
from rnn_jax.tasks import TASKS, Task
from rnn_jax.text import Corpus


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


def run_tasks(
  runs: Iterable[Run], settings: Settings, corpus: Corpus | None
) -> dict[Key, RunTasks]:
  """Returns {key of a run: its tasks}; equal tasks are built once.

  Raises:
    ValueError: if a task rejects its sequence length or batch size; the message names the flag.
  """
  built: dict[Key, Task] = {}

  def task(name: str, length: int, batch_size: int) -> Task:
    key = name, length, batch_size
    if key not in built:
      text = {"corpus": corpus} if name == TEXT_TASK else {}
      built[key] = TASKS[name](length, batch_size, **text)
    return built[key]

  found = {}
  for key, run in {key_of(run): run for run in runs}.items():
    with command_line.errors_name_flags():
      train = task(*key)
    try:
      lengths = settings.test_lengths(run)
      tests = {n: task(run.task, n, run.batch_size) for n in lengths}
      for test in tests.values():  # the held-out data may be too few for long sequences
        jax.eval_shape(test.batch, train.held_out, jax.random.key(0))
      found[key] = RunTasks(train, tests)
    except ValueError as error:
      raise ValueError(
        f"--test_sequence_length={settings.test_sequence_length} does not fit {run.task}: {error}"
      ) from None
  return found
