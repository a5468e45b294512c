"""Synthetic records for tests of figures, and functions that look up what a figure has drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

CELLS = ("elman", "gru", "lstm")
# The decay of gradients at initialization, in log10 per time step.
DECAY = {"elman": 0.30, "gru": 0.06, "lstm": 0.03}
SETTINGS = {
  "learning_rate": 0.002,
  "clip_norm": 1.0,
  "clip_by": "global_norm",
  "recurrent_gain": 1.0,
  "forget_bias": 1.0,
}
FULL = math.inf


def records(
  cells=CELLS,
  depths=(1, 2),
  truncations=(8.0, 32.0, FULL),
  seeds=(0, 1),
  num_time=128,
  steps=tuple(range(0, 1001, 100)),
  **settings: tuple[float, ...],
) -> tuple[xr.Dataset, xr.Dataset]:
  """Returns synthetic (gradients, metrics) of a grid of runs, as a sweep would record them.

  The gradient of the last step's loss decays geometrically with the lag, and more slowly after
  training. The gradient of the training loss at time t is a sum of such decays over the time steps
  from t to the next cut of the truncation, and so is a sawtooth in t.
  """
  axes = [settings.get(name, (value,)) for name, value in SETTINGS.items()]
  grid = itertools.product(cells, depths, truncations, seeds, *axes)
  # Removes duplicates, because cells without a forget gate get one run for all forget biases.
  runs = list(dict.fromkeys((*run[:-1], run[-1] if run[0] == "lstm" else None) for run in grid))
  names = ("cell", "depth", "truncation", "seed", *SETTINGS)
  columns: dict[str, Any] = dict(zip(names, map(list, zip(*runs, strict=True)), strict=True))
  columns["forget_bias"] = [math.nan if b is None else b for b in columns["forget_bias"]]
  columns["run"] = [
    f"{run[0]}-d{run[1]}-k{run[2]:g}-s{run[3]}-{i:08x}" for i, run in enumerate(runs)
  ]
  columns["status"] = ["finished"] * len(runs)
  columns["diverged_step"] = [math.nan] * len(runs)

  lags, updates = np.arange(num_time), np.arange(steps[-1] + 1)
  shape = (len(runs), len(steps), max(depths), num_time)
  time_norm, lag_norm = np.full((2, *shape), np.nan, np.float32)
  loss, grad_norm = np.empty((2, len(runs), len(updates)), np.float32)
  for i, (cell, depth, truncation, *_, gain, _) in enumerate(runs):
    rng = np.random.default_rng(i)
    decay = DECAY.get(cell, 0.1) * (1 + 0.1 * rng.normal()) - 0.05 * math.log10(gain)
    for j, layer in itertools.product(range(len(steps)), range(depth)):
      slope = decay * (1 - 0.4 * j / max(len(steps) - 1, 1))
      through_depth = (depth - 1 - layer) * (0.5 + 0.004 * lags)
      walk = 0.03 * rng.normal(size=num_time).cumsum()
      lag_norm[i, j, layer] = -1 - slope * lags - through_depth + walk
      left = np.minimum(min(truncation, num_time) - 1 - lags % truncation, num_time - 1 - lags)
      window = np.log10((1 - 10 ** (-slope * (left + 1))) / (1 - 10**-slope))
      noise = 0.02 * rng.normal(size=num_time)
      time_norm[i, j, layer] = -2 + window - through_depth[0] + noise
    fall = 1.2 + 0.1 * min(truncation, 128) ** 0.5 * (cell != "elman")
    noise = rng.normal(size=(2, len(updates)))
    loss[i] = 3.3 - fall * (1 - np.exp(-updates / 200)) + 0.05 * noise[0]
    grad_norm[i] = 10 ** (0.4 * np.exp(-updates / 150) - 0.4 + 0.15 * noise[1])

  clipped = grad_norm > np.array(columns["clip_norm"])[:, None]
  along_run = {name: ("run", column) for name, column in columns.items()}
  dims = ("run", "step", "layer")
  absent = np.full(shape, np.nan, np.float32)
  gradients = xr.Dataset(
    {
      "log10_grad_norm": ((*dims, "time"), time_norm),
      "log10_lag_norm": ((*dims, "lag"), lag_norm),
      "log10_grad_norm_cell": ((*dims, "time"), absent),
      "log10_lag_norm_cell": ((*dims, "lag"), absent.copy()),
    },
    {
      **along_run,
      "step": list(steps),
      "layer": np.arange(1, max(depths) + 1),
      "time": lags + 1,
      "lag": lags,
    },
  )
  metrics = xr.Dataset(
    {
      "loss": (("run", "update"), loss),
      "grad_norm": (("run", "update"), grad_norm),
      "clipped": (("run", "update"), clipped.astype(np.float32)),
    },
    {**along_run, "update": updates},
    {"task": "characters", "loss_unit": "nats per character", "baseline": 2.9},
  )
  return gradients, metrics


def small(**axes: Any) -> tuple[xr.Dataset, xr.Dataset]:
  defaults = {"cells": ("lstm",), "depths": (1,), "truncations": (FULL,), "num_time": 16}
  return records(**{**defaults, "steps": (0, 20, 40), **axes})


def diverge(data: xr.Dataset, run: int, step: int) -> None:
  """Makes a run diverge at `step`, in place: sets its status, and its values from there to NaN."""
  status = data["status"].values.tolist()
  status[run] = "diverged"
  data["status"] = ("run", status)
  data["diverged_step"].values[run] = step
  for variable in data.data_vars.values():
    when = variable["step" if "step" in variable.dims else "update"].values
    variable.values[run, when >= step] = np.nan


def panel(figure: Figure, title: str) -> Axes:
  (axis,) = [axis for axis in figure.axes if axis.get_title() == title]
  return axis


def lines(axis: Axes, label: str) -> list[Line2D]:
  return [line for line in axis.lines if line.get_label() == label]


def line(axis: Axes, label: str) -> Line2D:
  (found,) = lines(axis, label)
  return found


def curves(axis: Axes, label: str) -> LineCollection:
  (found,) = (found for found in axis.collections if found.get_label() == label)
  return found


def legend(figure: Figure) -> list[str]:
  return [text.get_text() for text in figure.legends[0].get_texts()]


def values(data: xr.Dataset, name: str, **where: Any) -> np.ndarray:
  """Returns the values [run, ...] of variable `name`, for the runs with the coordinates `where`."""
  chosen = np.ones(data.sizes["run"], bool)
  for coordinate, value in where.items():
    chosen &= data[coordinate].values == value
  assert chosen.any()
  return data[name].values[chosen].astype(float)


def draw(figure: Figure) -> None:
  FigureCanvasAgg(figure).draw()


def lay_out(figure: Figure) -> None:
  """Computes the layout of a figure as `draw` does, but renders nothing, which is faster."""
  FigureCanvasAgg(figure)
  figure.draw_without_rendering()


def named(figure: Figure, folder: Path, name: str, formats: Sequence[str]) -> tuple[Path]:
  """Replaces `style.save`: returns a path without saving the figure, which would take a second."""
  assert figure.axes
  return (folder / name,)
