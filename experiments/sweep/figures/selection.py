"""The choice of runs by the values of their settings, as in `--select=cell=lstm,gru`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.cli import parsers
from experiments.networks.cell_options import value_of
from rnn_jax import checks

_NOT_SELECTED_BY = ("options", "baseline", "diverged_step")


class Selection(NamedTuple):
  """Chooses the runs of which a setting or cell option has one of several values, given as text."""

  name: str
  values: tuple[str, ...]


def parse(text: str) -> Selection:
  """Parses `name=v1,v2`.

  Raises:
    ValueError: if the text does not have this form.
  """
  name, equals, values = (part.strip() for part in text.partition("="))
  if not name or not equals:
    raise ValueError(f"select must be NAME=VALUE or NAME=VALUE,VALUE,…, got '{text}'.")
  return Selection(name, parsers.several("select", str)(values, text))


def select(
  gradients: xr.Dataset, metrics: xr.Dataset, selections: Sequence[Selection]
) -> tuple[xr.Dataset, xr.Dataset]:
  """Returns the records of the runs that all selections choose.

  Values are given as the sweep's flags write them: `full` for no truncation, `none` for no clipping
  and for a setting that the cell does not have. A cell option is selected by its name, and chooses
  runs that were given it.

  Args:
    gradients, metrics: records of a sweep, with the dimension `run`.
    selections: what to select.
  Raises:
    ValueError: if there is no such setting or value, or if no run is chosen.
  """
  columns = _columns(metrics)
  chosen = np.ones(metrics.sizes["run"], bool)
  for name, values in selections:
    checks.choice("--select", name, columns)
    chosen &= np.any([_matches(name, columns[name], value) for value in values], axis=0)
  if not chosen.any():
    texts = " ".join(f"--select={name}={','.join(values)}" for name, values in selections)
    raise ValueError(f"{texts} must choose a run, but no run has all of these values.")
  if chosen.all():
    return gradients, metrics
  return _trim(gradients.isel(run=chosen)), _trim(metrics.isel(run=chosen))


def _columns(data: xr.Dataset) -> dict[str, list[Any]]:
  """Returns {setting or cell option: its value for each run}; "" for an option not given."""
  columns = {
    str(name): column.values.tolist()
    for name, column in data.coords.items()
    if column.dims == ("run",) and name not in _NOT_SELECTED_BY
  }
  given = [
    dict(part.partition("=")[::2] for part in text.split(", ") if part)
    for text in (data["options"].values.tolist() if "options" in data.coords else ())
  ]
  for name in dict.fromkeys(name for options in given for name in options):
    columns.setdefault(name, [options.get(name, "") for options in given])
  return columns


def _matches(name: str, column: Sequence[Any], text: str) -> list[bool]:
  """Returns of which runs the value is the one that `text` stands for.

  Raises:
    ValueError: if it is no run's value.
  """
  found = [_same(_text(name, value), text) for value in column]
  if not any(found):
    known = sorted(set(column) - {""}, key=lambda value: (isinstance(value, str), value))
    texts = list(dict.fromkeys(_text(name, value) for value in known))
    shown = ", ".join(texts[:20]) + ", …" * (len(texts) > 20)
    raise ValueError(f"--select={name} must be one of {shown}, got '{text}'.")
  return found


def _text(name: str, value: Any) -> str:
  """Returns a value as the sweep's flags write it."""
  if value != value or value == math.inf:
    return "full" if name == "truncation" else "none"
  return str(value).lower() if isinstance(value, bool) else str(value)


def _same(one: str, other: str) -> bool:
  """Returns whether two texts stand for the same value, such as `0.002` and `2e-3`."""
  try:
    values = value_of(one), value_of(other)
  except ValueError:  # a number beyond float32
    return one == other
  if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
    return bool(np.float32(values[0]) == np.float32(values[1]))
  return one.lower() == other.lower()


def _trim(data: xr.Dataset) -> xr.Dataset:
  """Drops the steps, updates, times, … at which none of the runs has a value."""
  for dim in ("step", "update", "time", "lag"):
    if dim in data.dims:
      data = data.dropna(dim, how="all")
  return data
