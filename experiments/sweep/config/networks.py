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
from rnn_jax.cells import cell_options as options_of
from rnn_jax.gradient_flow import joint_size
from rnn_jax.network_init import critical_gain
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
  _check_remedies(runs)
  wide = [dataclasses.replace(run, hidden_size=found[group_of(run)].width) for run in runs]
  cells = [make_cells(alike[0]) for alike in by_group(wide).values()]
  for alike, own in zip(by_group(wide).values(), cells, strict=True):
    _check_penalties(alike[0], own)
  return wide, [own[0] for own in cells]


def _check_remedies(runs: Sequence[Run]) -> None:
  """Checks that warm-ups end, and that cells can be initialized as asked."""
  for run in runs:
    if run.warmup >= run.steps:
      raise ValueError(f"--warmup must be below --steps={run.steps}, got {run.warmup}.")
    named = f"--initialization={run.initialization}"
    if run.initialization == "critical":
      try:
        critical_gain(run.cell, **dict(run.options))
      except ValueError as error:
        raise ValueError(f"{named}: {error}") from None
    elif run.initialization != "default":
      if "recurrent_kernel" not in options_of(run.cell):
        raise ValueError(f"{named} is for cells with the option recurrent_kernel, got {run.cell}.")
      if run.layer_norm:
        raise ValueError(f"{named} must not be combined with --layer_norm.")


def _check_penalties(run: Run, cells: Sequence[Cell]) -> None:
  """Checks that the cells of a run's layers fit its penalties."""
  if run.spectral_penalty and any(cell.recurrent_kernel is None for cell in cells):
    raise ValueError(
      f"--spectral_penalty must be 0 for {run.network}, which has a layer without a plain "
      f"recurrent kernel, got {run.spectral_penalty:g}."
    )
  if run.flossing or run.flossing_steps:
    smallest = min(map(joint_size, cells))
    if run.flossing_exponents > smallest:
      raise ValueError(
        f"--flossing_exponents must be at most {smallest}, the size of the carry of "
        f"{run.network}, got {run.flossing_exponents}."
      )


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
