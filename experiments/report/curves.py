"""The curves of a report's figures, with fewer points, packed as base64.

A page of many runs has fewer points per curve, so that its size is bounded.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer

from experiments.report.sources import Source

MAX_BYTES = 8 * 2**20  # of all curves of a page, before they are encoded in base64
MOST_POINTS, FEWEST_POINTS = 200, 24  # of a curve
STEPS_PER_DECADE = 500  # resolution of the logarithms of norms
_NAN, _ZERO, _OVERFLOW = -(2**15), -(2**15) + 1, 2**15 - 1


class _Profile(NamedTuple):
  name: str
  title: str
  axis: str
  label: str


class _Metric(NamedTuple):
  name: str
  label: str


_PROFILES = (
  _Profile("log10_lag_norm", "Gradient by lag", "lag", "lag k (time steps before the last)"),
  _Profile("log10_grad_norm", "Gradient by time step", "time", "time step t"),
)


def pack(sources: Sequence[Source]) -> dict[str, Any]:
  """Returns the curves of all runs as JSON data.

  Returns:
    `points`, the largest number of points of a curve; `runs`, the indices of the runs that have
    curves; `profiles` and `metrics`, each a list of groups of curves. Each group has `x`; profiles
    have `layers`, `start` and `end`, the log10 of norms at the first and the last recorded step,
    axes (run, layer, x); metrics have `values`, axes (run, x).
  """
  profiles = [
    profile for profile in _PROFILES if any(profile.name in source.gradients for source in sources)
  ]
  metrics = [*_metrics(sources)]
  layers = max(source.gradients.sizes["layer"] for source in sources)
  total = sum(source.gradients.sizes["run"] for source in sources)
  each = 2 * 2 * layers * len(profiles) + 4 * len(metrics)  # bytes of a run, per point
  points = int(np.clip(MAX_BYTES // (each * total), FEWEST_POINTS, MOST_POINTS))
  runs = spaced(total, max(1, MAX_BYTES // (each * points)))
  return {
    "points": points,
    "runs": runs.tolist(),
    "profiles": [_profile(sources, profile, layers, points, runs) for profile in profiles],
    "metrics": [_metric(sources, metric, points, runs) for metric in metrics],
  }


def spaced(size: int, count: int, geometric: bool = False) -> Integer[np.ndarray, " chosen"]:
  """Returns at most `count` indices below `size`, the first and the last among them.

  They are evenly spaced; if `geometric`, half of them are evenly spaced on a logarithmic axis.
  """
  if size <= count:
    return np.arange(size)
  if not geometric:
    return np.unique(np.linspace(0, size - 1, count).round().astype(int))
  even = np.linspace(0, size - 1, count - count // 2)
  return np.unique([*even.round().astype(int), *np.geomspace(1, size - 1, count // 2).astype(int)])


def _metrics(sources: Sequence[Source]) -> Iterator[_Metric]:
  """Yields the metrics that have values: losses, gradient norm, held-out metrics."""
  names = dict.fromkeys(str(name) for source in sources for name in source.metrics.data_vars)
  held_out = [name for name in names if name.startswith("held_out_")]
  for name in ("loss", *held_out, "grad_norm"):
    found = (source.metrics[name] for source in sources if name in source.metrics)
    if any(values.notnull().any() for values in found):
      label = {"loss": "training loss", "grad_norm": "gradient norm before clipping"}.get(name)
      yield _Metric(name, label or _held_out_label(name))


def _held_out_label(name: str) -> str:
  kind, _, length = name.removeprefix("held_out_").partition("_")
  return f"held-out {kind}" + f", sequence length {length}" * bool(length)


def _profile(
  sources: Sequence[Source],
  profile: _Profile,
  layers: int,
  points: int,
  runs: Integer[np.ndarray, " runs"],
) -> dict[str, Any]:
  every = [source.gradients.get(profile.name) for source in sources]
  x = _union([values for values in every if values is not None], profile.axis)
  x = x[spaced(len(x), points, geometric=profile.axis == "lag")]
  along = {"layer": np.arange(1, layers + 1), profile.axis: x}
  starts, ends = [], []
  for source, values in zip(sources, every, strict=True):
    start, end = _first_and_last(values, along, source.gradients.sizes["run"])
    starts.append(start)
    ends.append(end)
  return {
    "name": profile.name,
    "title": profile.title,
    "axis": profile.axis,
    "label": profile.label,
    "x": x.tolist(),
    "layers": layers,
    "start": packed_logarithms(np.concatenate(starts)[runs]),
    "end": packed_logarithms(np.concatenate(ends)[runs]),
  }


def _first_and_last(
  values: xr.DataArray | None, along: dict[str, np.ndarray], size: int
) -> tuple[Float[np.ndarray, "run layer x"], Float[np.ndarray, "run layer x"]]:
  """Returns profiles at the first step, and at the last step at which each run was measured.

  Args:
    values: the profiles at all steps, or None if they are missing.
    along: coordinates of the result's layers and points.
    size: number of runs.
  """
  shape = (size, *(len(own) for own in along.values()))
  if values is None:
    return np.full(shape, np.nan), np.full(shape, np.nan)
  array = values.reindex(along).transpose("run", "step", *along).values.astype(float)
  measured = ~np.isnan(array).all(axis=(2, 3))
  last = measured.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
  return array[:, 0], array[np.arange(size), last]


def _metric(
  sources: Sequence[Source],
  metric: _Metric,
  points: int,
  runs: Integer[np.ndarray, " runs"],
) -> dict[str, Any]:
  parts = [source.metrics.get(metric.name) for source in sources]
  found = [part.dropna("update", how="all") for part in parts if part is not None]
  x = _union(found, "update")
  x = x[spaced(len(x), points, geometric=True)]
  rows = [
    np.full((source.metrics.sizes["run"], len(x)), np.nan)
    if part is None
    else part.reindex(update=x).transpose("run", "update").values
    for source, part in zip(sources, parts, strict=True)
  ]
  values = np.concatenate(rows)[runs].astype("<f4")
  return {
    "name": metric.name,
    "label": metric.label,
    "x": x.tolist(),
    "values": base64.b64encode(values.tobytes()).decode("ascii"),
  }


def _union(found: Sequence[xr.DataArray], axis: str) -> Integer[np.ndarray, " size"]:
  return np.unique(np.concatenate([values[axis].values for values in found]))


def packed_logarithms(values: Float[np.ndarray, ...]) -> str:
  """Returns the log10 of norms in base64, as 16-bit numbers of 1/500 decade, row by row.

  The three outermost numbers stand for NaN, −inf and inf.
  """
  with np.errstate(invalid="ignore"):  # the cast of NaN
    steps = np.clip(np.rint(STEPS_PER_DECADE * values), _ZERO + 1, _OVERFLOW - 1)
    steps = np.where(np.isnan(values), _NAN, np.where(np.isneginf(values), _ZERO, steps))
    steps = np.where(np.isposinf(values), _OVERFLOW, steps).astype("<i2")
  return base64.b64encode(steps.tobytes()).decode("ascii")
