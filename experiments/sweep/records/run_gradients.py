"""Writes, reads and gathers `gradients.nc`, a run's norms and measures with axes (step, layer, …).

Files are read and written with SciPy. For small files, it is ten times as fast as xarray, and it
takes less time to import.
"""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from experiments.runtime import files, memory
from experiments.sweep.measures.table import MEASURES, coordinates
from experiments.sweep.records.record import Record
from experiments.sweep.records.sweep_folder import is_text
from rnn_jax.types import AnyArray


class Gradients(NamedTuple):
  """The norms and measures in a `gradients.nc`.

  Attributes:
    coordinates: {axis: its coordinates, in increasing order}.
    variables: {name: (its axes, its values)}.
  """

  coordinates: dict[str, Integer[np.ndarray, " size"]]
  variables: dict[str, tuple[tuple[str, ...], Float[np.ndarray, ...]]]


def write(path: Path, records: Record, steps: Sequence[int]) -> None:
  """Writes the norms and measures of a run atomically, as NetCDF 3.

  The values are NaN at the steps after a divergence.

  Args:
    path: the file.
    records: the run's records.
    steps: the steps at which a run that does not diverge is recorded; see `recorded_steps`.
  """
  from scipy.io import netcdf_file  # imported here because it takes a sixth of a second

  by_axes: list[tuple[tuple[str, ...], Mapping[str, AnyArray]]] = [
    (("layer", "time"), records.norms)
  ]
  by_axes += [(MEASURES[name].dims, found) for name, found in records.measures.items()]
  variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
  sizes: dict[Hashable, int] = {}
  for all_axes, found in by_axes:
    for name, values in found.items():
      axes = all_axes[: values.ndim - 1]
      sizes |= zip(axes, values.shape[1:], strict=True)
      recorded = np.full((len(steps), *values.shape[1:]), np.nan, np.float32)
      recorded[: len(values)] = values
      variables[name] = ("step", *axes), recorded
  along = {"step": np.array(steps, np.int32), **coordinates(sizes)}
  with files.replacing(path) as draft, netcdf_file(draft, "w", version=2) as file:
    for axis, values in along.items():
      file.createDimension(axis, len(values))
    for name, (axes, values) in variables.items():
      variable = file.createVariable(name, values.dtype, axes)
      variable._FillValue = np.float32(np.nan)  # marks missing values, as xarray does
      variable[:] = values
    for axis, values in along.items():
      file.createVariable(axis, values.dtype, (axis,))[:] = values


def read(path: Path) -> Gradients:
  """Returns the contents of a run's `gradients.nc`.

  Raises:
    ValueError: if axes, names or types are not those that `write` writes.
    OSError: if the file cannot be read.
    Exception: of various types, if the file is damaged.
  """
  from scipy.io import netcdf_file

  # SciPy reads only NetCDF 3. In a NetCDF 4 file, compressed arrays could be far larger than the
  # file.
  with netcdf_file(io.BytesIO(files.read_bytes(path))) as file:
    found = {name: (part.dimensions, part.data) for name, part in file.variables.items()}
    along = {name: found.pop(name) for name in [*found] if name in file.dimensions}
  _check_variables(found)
  _check_coordinates(along)
  used = {axis for axes, _ in found.values() for axis in axes}
  missing = {*used, "step", "layer", "time"} - along.keys()
  if missing or "log10_grad_norm" not in found:
    raise ValueError(f"{min(missing, default='log10_grad_norm')} is missing")
  return Gradients({axis: values for axis, (_, values) in along.items()}, found)


def _check_variables(found: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> None:
  known = dict.fromkeys(("step", *(axis for measure in MEASURES.values() for axis in measure.dims)))
  for name, (axes, values) in found.items():
    if not is_text(name):
      raise ValueError(f"the name {name!r} must not contain control characters")
    if axes[:1] != ("step",) or not known.keys() >= set(axes) or values.dtype.kind != "f":
      raise ValueError(
        f"{name} must be floats whose first axis is step, and whose other axes are of "
        f"{', '.join([*known][1:])}, got {values.dtype} with the axes {', '.join(axes) or 'none'}"
      )


def _check_coordinates(along: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> None:
  for name, (axes, values) in along.items():
    if axes != (name,) or values.dtype.kind != "i" or not (values[1:] > values[:-1]).all():
      raise ValueError(f"the coordinates of {name} must be increasing integers along this axis")


def gather(parts: Sequence[Gradients], subject: str) -> Gradients:
  """Returns the gradients of several runs, with a new first axis `run`, which has no coordinates.

  The other axes are the unions of the runs' axes. Entries that a run lacks are NaN.

  Args:
    parts: the gradients of each run.
    subject: what the error message calls `parts` if they do not fit into memory.
  Raises:
    ValueError: if a variable has different axes in two runs, or if the result does not fit into
      memory.
  """
  along = _union(parts)
  axes_of: dict[str, tuple[str, ...]] = {}
  for part in parts:
    for name, (axes, _) in part.variables.items():
      if axes_of.setdefault(name, axes) != axes:
        texts = [", ".join(found) for found in (axes_of[name], axes)]
        raise ValueError(
          f"{name} must have the same axes in all runs, got {texts[0]} in one run and {texts[1]} "
          "in another."
        )
  shapes = {name: [len(along[axis]) for axis in axes] for name, axes in axes_of.items()}
  memory.check(len(parts) * sum(map(math.prod, shapes.values())), subject, "they need")
  gathered = {
    name: np.full((len(parts), *shape), np.nan, np.float32) for name, shape in shapes.items()
  }
  for i, part in enumerate(parts):
    places = {axis: np.searchsorted(along[axis], own) for axis, own in part.coordinates.items()}
    for name, (axes, values) in part.variables.items():
      gathered[name][i][np.ix_(*(places[axis] for axis in axes))] = values
  return Gradients(
    along, {name: (("run", *axes_of[name]), values) for name, values in gathered.items()}
  )


def _union(parts: Sequence[Gradients]) -> dict[str, Integer[np.ndarray, " size"]]:
  """Returns the union of all runs' coordinates, by axis."""
  # Most runs have the same coordinates, so drop duplicates before merging.
  distinct: dict[str, dict[bytes, np.ndarray]] = {}
  for part in parts:
    for axis, values in part.coordinates.items():
      distinct.setdefault(axis, {})[values.tobytes()] = values
  return {
    axis: np.unique(np.concatenate([*found.values()])).astype(np.int32)
    for axis, found in distinct.items()
  }
