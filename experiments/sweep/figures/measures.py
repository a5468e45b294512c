"""Figures of the measures of a sweep: one for each, made from the table of measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.plotting import style as look
from experiments.plotting.lines import draw_profiles
from experiments.sweep.figures.panels import (
  DASHED,
  bottom_layer,
  common_keys,
  describe_seeds,
  describe_truncations,
  draw_the_end,
  group_runs,
  line_keys,
  line_styles,
  make_panels,
  rows_and_line,
  run_columns,
  with_largest,
)
from experiments.sweep.measures import MEASURES

X_LABELS = {
  "step": "optimisation step",
  "time": "time $t$ (time steps)",
  "lag": "lag $k$ (time steps)",
  "exponent": "index of the exponent",
  "reach": "truncation (time steps)",
}


def measure_figures(gradients: xr.Dataset) -> dict[str, Figure]:
  """A figure for each measure in the records, but for lag profiles: `gradient_decay` shows them."""
  figures = {}
  for name, measure in MEASURES.items():
    here = {v: label for v, label in measure.labels.items() if v in gradients}
    found = {v: label for v, label in here.items() if v != "log10_lag_norm"}
    if found:
      figures[name] = _figure(gradients, found, name)
  return figures


def _figure(gradients: xr.Dataset, variables: Mapping[str, str], name: str) -> Figure:
  """One stack of axes a panel, an axis for each variable; panels and lines as in `gradient_decay`.

  What has an axis of its own (time, lag, …) is drawn at initialisation and after training, in
  layer 1; what has none, against the optimisation step.
  """
  rows, line = rows_and_line(gradients)
  truncations, styles = run_columns(gradients)["truncation"], line_styles(gradients, line)
  dims = [dim for dim in gradients[next(iter(variables))].dims if dim not in ("run", "layer")]
  over = str(dims[-1])
  labels = [*variables.values()]
  figure, panels = make_panels(gradients, rows, X_LABELS[over], labels)
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    drawn.append(runs)
    style, track = styles[value], 2 * list(styles).index(value)
    for axis, variable in zip(panels[tuple(place)], variables, strict=True):
      values = bottom_layer(gradients, variable)[runs]
      label, x = str(value), gradients[over].values
      if np.isnan(values).all():
        continue  # the forget gate of a cell that has none
      if over == "step":
        there = ~np.isnan(values).all(axis=0)
        draw_profiles(axis, x[there], values[:, there], style, label, track)
      else:
        first = f"{label}, initialisation"
        draw_profiles(axis, x, values[:, 0], style, first, track, linestyle=DASHED)
        draw_the_end(axis, x, values[:, 1:], style, label, track + 1)
      if over == "reach":
        axis.set_xscale("log", base=2)
  steps = gradients["step"].values
  keys: list[Any] = [*line_keys(line, styles)]
  if over != "step":
    keys.append(look.key(f"initialisation (step {steps[0]})", ls=DASHED))
    keys.append(look.key(f"after training (step {steps[-1]})"))
  keys += common_keys(panels, drawn)
  if (bounds := MEASURES[name].bounds) is not None:
    for axis in figure.axes:
      axis.set_ylim(bounds[0] - 0.05, bounds[1] + 0.05)
  trained, pooled = describe_truncations(gradients, drawn), describe_seeds(gradients, drawn)
  where = ", layer 1" if "layer" in MEASURES[name].dims else ""
  look.annotate(figure, keys, f"Measure {name!r}{where}; trained with {trained}; {pooled}")
  return figure
