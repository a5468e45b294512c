"""The index of the runs in a sweep's dataset, by which `Dataset.sel` finds runs by their settings.

xarray's own indexes cannot be combined along one dimension, as `data.sel(cell="lstm", depth=2)`
needs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool
from xarray.indexes import PandasIndex


class RunIndex(xr.Index):
  """An index over the ids of runs and their settings, which are coordinates of one dimension.

  `sel` takes labels of settings: a value, a list of values, or a slice, whose ends are included. It
  returns the runs that match all of them. Values match exactly; NaN matches NaN. A label of the
  dimension itself, a run's id, selects as usual.
  """

  def __init__(self, runs: PandasIndex, settings: Mapping[Hashable, xr.Variable]):
    self.runs = runs
    self.settings = dict(settings)

  @classmethod
  def from_variables(
    cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]
  ) -> RunIndex:
    """Builds the index from coordinates of one dimension, among them that of the dimension."""
    dim = next(iter(variables.values())).dims[0]
    settings = {name: variable for name, variable in variables.items() if name != dim}
    return cls(PandasIndex.from_variables({dim: variables[dim]}, options={}), settings)

  @classmethod
  def concat(
    cls,
    indexes: Sequence[RunIndex],
    dim: Hashable,
    positions: Iterable[Iterable[int]] | None = None,
  ) -> RunIndex:
    """Returns the index of all runs of several indexes, which must have the same settings."""
    return cls(
      PandasIndex.concat([index.runs for index in indexes], dim, positions),
      {
        name: xr.Variable.concat([index.settings[name] for index in indexes], dim, positions)
        for name in indexes[0].settings
      },
    )

  def create_variables(
    self, variables: Mapping[Any, xr.Variable] | None = None
  ) -> dict[Any, xr.Variable]:
    """Returns the coordinates, with the attributes of those in `variables`."""
    given = variables or {}
    settings = {name: own.copy(deep=False) for name, own in self.settings.items()}
    for name, own in settings.items():
      if name in given:
        own.attrs, own.encoding = given[name].attrs, given[name].encoding
    dim = self.runs.dim
    ids = self.runs.create_variables({dim: given[dim]} if dim in given else None)
    return {**ids, **settings}

  def to_pandas_index(self) -> pd.Index:
    """Returns the ids of the runs."""
    return self.runs.to_pandas_index()

  def isel(self, indexers: Mapping[Any, Any]) -> RunIndex | None:
    """Returns the index of the runs at some positions; None for a single run, without dimension."""
    runs = self.runs.isel(indexers)
    if not isinstance(runs, PandasIndex):
      return None
    return RunIndex(runs, {name: own.isel(indexers) for name, own in self.settings.items()})

  def sel(self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None) -> Any:
    """Returns the positions of the runs that match all labels.

    `method` and `tolerance` apply to labels of other dimensions only.

    Raises:
      KeyError: if no run has a value that is asked for, or no run matches all labels.
    """
    dim = self.runs.dim
    if set(labels) == {dim}:
      return self.runs.sel(labels)
    chosen = np.ones(len(self.runs.index), bool)
    for name, label in labels.items():
      values = self.runs.index.to_numpy() if name == dim else self.settings[name].to_numpy()
      chosen &= _matches(str(name), values, label)
    if not chosen.any():
      raise KeyError(f"No run has {', '.join(f'{n}={label!r}' for n, label in labels.items())}.")
    return self.runs.sel({dim: self.runs.index.to_numpy()[chosen]})

  def equals(self, other: xr.Index, **options: Any) -> bool:
    """Returns whether the other index has the same runs; a run's id identifies its settings."""
    return isinstance(other, RunIndex) and self.runs.equals(other.runs)

  def join(self, other: RunIndex, how: Any = "inner") -> RunIndex:
    """Returns the index of the runs that are in both (`inner`) or in any (`outer`)."""
    runs = self.runs.join(other.runs, how)
    ours, theirs = (index.runs.index.get_indexer(runs.index) for index in (self, other))
    place = np.where(ours >= 0, ours, len(self.runs.index) + theirs)
    both = RunIndex.concat([self, other], self.runs.dim)
    return RunIndex(
      runs, {name: own.isel({self.runs.dim: place}) for name, own in both.settings.items()}
    )

  def reindex_like(self, other: RunIndex) -> dict[Hashable, Any]:
    """Returns the positions of the other index's runs in this one; -1 for those that it lacks."""
    return self.runs.reindex_like(other.runs)

  def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Any:
    """Returns the index with other names of its coordinates or its dimension."""
    settings = {
      name_dict.get(name, name): xr.Variable([dims_dict.get(d, d) for d in own.dims], own)
      for name, own in self.settings.items()
    }
    return RunIndex(self.runs.rename(name_dict, dims_dict), settings)


def _matches(name: str, values: np.ndarray, label: object) -> Bool[np.ndarray, " run"]:
  """Returns which of a setting's values match a label.

  Raises:
    KeyError: if a value in the label is not among the setting's values.
  """
  if isinstance(label, slice):
    ends = zip((label.start, label.stop), (np.greater_equal, np.less_equal), strict=True)
    within = [compare(values, end) for end, compare in ends if end is not None]
    return np.logical_and.reduce([np.ones(len(values), bool), *within])
  known = values.tolist()
  matches = np.zeros(len(values), bool)
  for wanted in np.ravel(np.asarray(label)).tolist():
    found = np.array([own == wanted or (own != own and wanted != wanted) for own in known], bool)
    if not found.any():
      choices = ", ".join(map(str, np.unique(values).tolist()))
      raise KeyError(f"{name} must be one of {choices}, got {wanted}.")
    matches |= found
  return matches
