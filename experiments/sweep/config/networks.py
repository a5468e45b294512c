"""Builds a sweep's networks: chooses their hidden sizes, and checks that they fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from experiments.networks import cell_options
from experiments.networks.matched_width import (
  check_near,
  count_params,
  matched_width,
  task_input_size,
)
from experiments.runtime import memory
from experiments.sweep.config.runs import Run, Settings, hidden_size_of
from rnn_jax.cells import make_cell
from rnn_jax.tasks import Task
from rnn_jax.types import Cell


class Network(NamedTuple):
  """A network that is trained by one or more runs of a sweep.

  Attributes:
    cell: the cell of every layer.
    width: the hidden size chosen to meet `match_params`; None if there is no parameter budget.
  """

  cell: Cell
  width: int | None


def networks(
  runs: Sequence[Run], settings: Settings, task: Task, runs_at_once: int
) -> tuple[list[Run], list[Network]]:
  """Returns the sweep's runs, with hidden sizes that meet the parameter budget, and their networks.

  Without a budget (`match_params`), the runs are returned unchanged.

  Args:
    runs: the sweep's runs, without hidden sizes of their own.
    settings: the sweep's settings.
    task: the task, built from the settings.
    runs_at_once: maximum number of runs that a device trains at once, all of which must fit into
      memory.
  Returns:
    (runs, their distinct networks).
  Raises:
    ValueError: if a cell rejects its options or its hidden size, no hidden size meets the parameter
      budget, or the runs of a device do not fit into memory.
  """
  input_size = task_input_size(task)
  firsts = {run.network: run for run in runs}
  found = {name: _network(run, settings, input_size, runs_at_once) for name, run in firsts.items()}
  wide = [dataclasses.replace(run, hidden_size=found[run.network].width) for run in runs]
  return wide, list(found.values())


def _network(run: Run, settings: Settings, input_size: int, runs_at_once: int) -> Network:
  """Returns the network of a run, after checking that it can be built and fits into memory.

  Arguments and errors are those of `networks`; `input_size` is the first layer's input size.
  """

  def cell(width: int) -> Cell:
    return make_cell(run.cell, width, **dict(run.options))

  def count(width: int) -> int:
    return count_params([cell(width)] * run.depth, input_size)

  def check_memory(width: int, params: int) -> None:
    carries = run.depth * settings.sequence_length * settings.batch_size * width
    _check_memory(settings, params + carries, runs_at_once)

  wanted = settings.match_params
  # The first check leaves out the params, because counting them fails for a huge hidden size.
  check_memory(settings.hidden_size or 1, 0)
  if wanted is None:
    width = hidden_size_of(run, settings)
    with cell_options.errors_of(run.cell, run.options):
      number = count(width)
    check_memory(width, number)
    return Network(cell(width), None)
  with cell_options.errors_of(run.cell, run.options):
    width, number = matched_width(count, wanted)
  check_near(width, number, wanted, run.network)
  check_memory(width, number)
  return Network(cell(width), width)


def _check_memory(settings: Settings, entries: int, runs_at_once: int) -> None:
  size = "hidden_size" if settings.match_params is None else "match_params"
  what = "a run needs" if runs_at_once == 1 else f"{runs_at_once} runs need"
  names = f"--{size}, --sequence_length, --batch_size and --depth"
  memory.check(entries * runs_at_once, names, what)
