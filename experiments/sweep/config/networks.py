"""Builds a sweep's networks: chooses their hidden sizes, and checks that they fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.networks import cell_options, layers
from experiments.networks.matched_width import (
  Matched,
  check_near,
  count_params,
  matched_width,
  task_input_size,
)
from experiments.runtime import memory
from experiments.sweep.config.groups import Group, by_group, group_of
from experiments.sweep.config.run_tasks import Key, RunTasks, key_of
from experiments.sweep.config.runs import Run, Settings
from rnn_jax.types import Cell


def networks(
  runs: Sequence[Run], settings: Settings, tasks: Mapping[Key, RunTasks], runs_at_once: int
) -> tuple[list[Run], list[Cell]]:
  """Returns the sweep's runs, with hidden sizes that meet the parameter budget, and their cells.

  Without a budget (`match_params`), the runs are returned unchanged.

  Args:
    runs: the sweep's runs; with a budget, without hidden sizes.
    settings: the sweep's settings.
    tasks: {key of a run: its tasks}.
    runs_at_once: maximum number of runs that a device trains at once, all of which must fit into
      memory.
  Returns:
    (runs, the cells of their distinct networks).
  Raises:
    ValueError: if a cell rejects its options or its hidden size, no hidden size meets the parameter
      budget, or the runs of a device do not fit into memory.
  """
  found: dict[Group, Matched] = {}
  input_sizes = {key: task_input_size(of.train) for key, of in tasks.items()}
  for key, alike in by_group(runs).items():
    found[key] = _network(alike[0], settings, input_sizes[key_of(alike[0])], runs_at_once)
  if settings.match_params is not None:
    check_near(list(found.values()), settings.match_params)
  wide = [dataclasses.replace(run, hidden_size=found[group_of(run)].width) for run in runs]
  return wide, [make_cells(alike[0])[0] for alike in by_group(wide).values()]


def _network(run: Run, settings: Settings, input_size: int, runs_at_once: int) -> Matched:
  """Returns the hidden size of a run's network, after checking that it fits into memory.

  Arguments and errors are those of `networks`; `input_size` is the first layer's input size.
  """

  def count(width: int) -> int:
    return count_params(make_cells(dataclasses.replace(run, hidden_size=width)), input_size)

  def check_memory(width: int, params: int) -> None:
    carries = run.depth * run.sequence_length * run.batch_size * width
    _check_memory(settings, params + carries, runs_at_once)

  wanted = settings.match_params
  # The first check leaves out the params, because counting them fails for a huge hidden size.
  check_memory(run.hidden_size or 1, 0)
  with cell_options.errors_of(run.cell, run.options):
    if wanted is None:
      width, number = run.width, count(run.width)
    else:
      width, number = matched_width(count, wanted)
  check_memory(width, number)
  return Matched(run.network, count, width, number)


def make_cells(run: Run) -> list[Cell]:
  """Returns the cell of each layer of a run's network, bottom layer first."""
  return layers.make_cells(
    layers.Layers(
      run.cell,
      run.depth,
      run.hidden_size,
      zoneout=run.zoneout,
      residual=run.residual,
      layer_norm=run.layer_norm,
      dropout=run.dropout,
      dropout_mask="step",
      hidden_sizes=(),
      options=run.options,
    )
  )


def _check_memory(settings: Settings, entries: int, runs_at_once: int) -> None:
  size = "hidden_size" if settings.match_params is None else "match_params"
  what = "a run needs" if runs_at_once == 1 else f"{runs_at_once} runs need"
  names = f"--{size}, --sequence_length, --batch_size and --depth"
  memory.check(entries * runs_at_once, names, what)
