"""The settings of a sweep's runs as text, and the order of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from experiments.ablation.study import Factor
from experiments.networks import cell_options

# The coordinates of `run` that are no settings, and those that are handled apart.
_NOT_FACTORS = ("run", "seed", "task", "options", "status", "diverged_step", "baseline")
# Settings that records of version 0.1.0 hold only in `sweep.json`, since all runs shared them.
_SHARED = ("task", "sequence_length", "batch_size", "steps", "optimizer")
_INFINITE = {"truncation": "full", "clip_norm": "none"}
_BETWEEN_LAYERS = ("layer_norm", "residual", "dropout")  # without effect on one layer
DEFAULT = "default"

Columns = dict[str, list[str | None]]


def value_text(name: str, value: Any) -> str | None:
  """Returns a setting's value as a flag gives it; None if the setting has no effect on the run."""
  if value is None or value != value or value == "":
    return _INFINITE.get(name) if value is None else None
  if isinstance(value, bool):
    return str(value).lower()
  if value == math.inf:
    return _INFINITE.get(name, "inf")
  if isinstance(value, float):
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
  return str(value)


def columns(data: xr.Dataset, configurations: Sequence[Mapping[str, Any]]) -> Columns:
  """Returns {setting: its value for each run}, with the task among the settings.

  Args:
    data: records, with the dimension `run`.
    configurations: the configuration of each sweep.
  """
  found: Columns = {
    name: [value_text(name, configurations[0].get(name))] * data.sizes["run"] for name in _SHARED
  }
  for name, column in data.coords.items():
    if column.dims == ("run",) and (name not in _NOT_FACTORS or name == "task"):
      found[str(name)] = [value_text(str(name), value) for value in column.values.tolist()]
  if any(own.get("match_params") is not None for own in configurations):
    found.pop("hidden_size", None)  # it follows from the other settings
  _leave_out_ineffective(found)
  if "options" in data.coords:
    found |= _options(found["cell"], data["options"].values.tolist())
  return found


def selected(found: Columns, configurations: Sequence[Mapping[str, Any]]) -> str | None:
  """Returns the setting whose value the sweeps selected for all other settings; None if none.

  Args:
    found: {setting: its value for each run}.
    configurations: the configuration of each sweep.
  """
  name = configurations[0].get("select")
  if name not in found or any(own.get("select") != name for own in configurations):
    return None
  others = zip(*(column for other, column in found.items() if other != name), strict=True)
  points = set(zip(others, found[name], strict=True))
  return name if len({other for other, _ in points}) == len(points) else None


def _leave_out_ineffective(found: Columns) -> None:
  """Replaces the values of settings without effect by None, in place."""
  where = [(name, "depth", "1") for name in _BETWEEN_LAYERS]
  where += [("clip_by", "clip_norm", "none"), ("loss_scale", "dtype", "float32")]
  for name, other, value in where:
    if name in found and other in found:
      pairs = zip(found[name], found[other], strict=True)
      found[name] = [None if at == value else own for own, at in pairs]


def _options(cells: Sequence[str | None], texts: Sequence[str]) -> Columns:
  """Returns a column for each cell option.

  A run without the option has None; `default` if other runs of the same cell have the option.
  """
  given = [dict(part.split("=", 1) for part in text.split(", ") if "=" in part) for text in texts]
  found: Columns = {}
  for name in dict.fromkeys(name for options in given for name in options):
    takers = {cell for cell, options in zip(cells, given, strict=True) if name in options}
    found[name] = [
      options.get(name, DEFAULT if cell in takers else None)
      for cell, options in zip(cells, given, strict=True)
    ]
  return found


def factors(found: Columns, configurations: Sequence[Mapping[str, Any]]) -> dict[str, Factor]:
  """Returns the settings with several values, which are in the order of the sweeps' flags.

  Args:
    found: {setting: its value for each run}.
    configurations: the configuration of each sweep.
  """
  orders = [_order(configuration) for configuration in configurations]
  varied = {}
  for name in sorted(found, key=[*orders[0], *found].index):
    column = found[name]
    listed = [value for own in orders for value in own.get(name, [])]
    present = set(column) - {None}
    values = [v for v in dict.fromkeys([*listed, *column]) if v is not None and v in present]
    if len(values) > 1:
      varied[name] = Factor(values, column)
  return varied


def _order(configuration: Mapping[str, Any]) -> dict[str, list[str]]:
  """Returns {setting: its values}, in the order in which the sweep's flags gave them."""
  found: dict[str, list[str]] = {}
  for name, values in configuration.items():
    if isinstance(values, list) and name != "cell_option":
      found[name] = [text for value in values if (text := value_text(name, value)) is not None]
  for text in configuration.get("cell_option", []):
    option = cell_options.parse(text)
    found.setdefault(option.name, []).extend(map(cell_options.value_text, option.values))
  return found
