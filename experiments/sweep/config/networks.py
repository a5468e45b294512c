"""The networks of a sweep's runs: built, matched and counted before anything is compiled."""

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
from experiments.sweep.config import grid
from experiments.sweep.config.grid import Run, Settings
from rnn_jax.cells import make_cell
from rnn_jax.tasks import Task
from rnn_jax.types import Cell


class Network(NamedTuple):
  """What is known of a network before it is made.

  Attributes:
    cell: of each of its layers.
    width: its own, where `match_params` asks for one.
  """

  cell: Cell
  width: int | None


def networks(
  runs: Sequence[Run], settings: Settings, task: Task, together: int
) -> tuple[list[Run], list[Network]]:
  """The runs, as wide as `match_params` makes them, and all their different networks.

  Args:
    runs: of the sweep, without a width of their own.
    settings: of the sweep.
    task: built from the settings.
    together: runs on a device at a time.
  Raises:
    ValueError: a cell refuses its options or its width, no width has the number of params, or what
      a device's runs must hold at least does not fit into memory.
  """
  input_size = task_input_size(task)
  firsts = {run.network: run for run in runs}
  found = {name: _network(run, settings, input_size, together) for name, run in firsts.items()}
  wide = [dataclasses.replace(run, hidden_size=found[run.network].width) for run in runs]
  return wide, list(found.values())


def _network(run: Run, settings: Settings, input_size: int, together: int) -> Network:
  """The network of one run, and of those that are like it; arguments as those of `networks`."""

  def cell(width: int) -> Cell:
    return make_cell(run.cell, width, **dict(run.options))

  def count(width: int) -> int:
    return count_params([cell(width)] * run.depth, input_size)

  def check_memory(width: int, params: int) -> None:
    carries = run.depth * settings.sequence_length * settings.batch_size * width
    _check_memory(settings, params + carries, together)

  wanted = settings.match_params
  # What is out of all bounds has more params than can be counted.
  check_memory(settings.hidden_size or 1, 0)
  if wanted is None:
    width = grid.width(run, settings)
    with cell_options.errors_of(run.cell, run.options):
      number = count(width)
    check_memory(width, number)
    return Network(cell(width), None)
  with cell_options.errors_of(run.cell, run.options):
    width, number = matched_width(count, wanted)
  check_near(width, number, wanted, run.network)
  check_memory(width, number)
  return Network(cell(width), width)


def _check_memory(settings: Settings, entries: int, together: int) -> None:
  size = "hidden_size" if settings.match_params is None else "match_params"
  what = "a run needs" if together == 1 else f"{together} runs need"
  names = f"--{size}, --sequence_length, --batch_size and --depth"
  memory.check(entries * together, names, what)
