"""The figures of a sweep's measures, generated from the table `MEASURES`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plotting import style as plot_style
from experiments.plotting.lines import draw_profiles
from experiments.plotting.style import Style
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
  "step": "optimization step",
  "time": "time $t$ (time steps)",
  "lag": "lag $k$ (time steps)",
  "exponent": "index of the exponent",
  "reach": "truncation (time steps)",
}


def measure_figures(gradients: xr.Dataset) -> dict[str, Figure]:
  """Returns {measure: figure} for the recorded measures.

  The variable `log10_lag_norm` is left out, because the figure `gradient_decay` shows it.
  """
  figures = {}
  for name, measure in MEASURES.items():
    here = {v: label for v, label in measure.labels.items() if v in gradients}
    found = {v: label for v, label in here.items() if v != "log10_lag_norm"}
    if found:
      figures[name] = _figure(gradients, found, name)
  return figures


def _figure(gradients: xr.Dataset, variables: Mapping[str, str], name: str) -> Figure:
  """Draws the measure `name`; each panel is a stack of axes, one for each variable.

  Panels and lines are chosen as in `gradient_decay`. A variable with one value per run, step and
  layer is drawn against the optimization step. A variable with a further dimension (time, lag, …)
  is drawn against this dimension, at initialization and after training. If a variable has layers,
  only layer 1 is drawn.

  Args:
    gradients: dataset with the variables.
    variables: {variable: label of its axis}.
    name: name of the measure.
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
    track = 2 * list(styles).index(value)
    for axis, variable in zip(panels[tuple(place)], variables, strict=True):
      profiles = bottom_layer(gradients, variable)[runs]
      if not np.isnan(profiles).all():  # all NaN if the cell lacks what is measured, such as a gate
        _draw(axis, over, gradients[over].values, profiles, styles[value], str(value), track)
  steps = gradients["step"].values
  keys: list[Artist] = [*line_keys(line, styles)]
  if over != "step":
    keys.append(plot_style.key(f"initialization (step {steps[0]})", ls=DASHED))
    keys.append(plot_style.key(f"after training (step {steps[-1]})"))
  keys += common_keys(panels, drawn)
  if (bounds := MEASURES[name].bounds) is not None:
    for axis in figure.axes:
      axis.set_ylim(bounds[0] - 0.05, bounds[1] + 0.05)
  trained, pooled = describe_truncations(gradients, drawn), describe_seeds(gradients, drawn)
  where = ", layer 1" if "layer" in MEASURES[name].dims else ""
  plot_style.annotate(figure, keys, f"Measure {name!r}{where}; trained with {trained}; {pooled}")
  return figure


def _draw(
  axis: Axes,
  over: str,
  x: Shaped[np.ndarray, " x"],
  values: Float[np.ndarray, "seeds step x"] | Float[np.ndarray, "seeds x"],
  style: Style,
  label: str,
  track: int,
) -> None:
  """Draws the values of one cell or setting against x, the coordinates of the dimension `over`.

  If `over` is `step`, draws one line over all of training. Otherwise draws one line for
  initialization and one for the end of training.
  """
  if over == "step":
    is_measured = ~np.isnan(values).all(axis=0)
    draw_profiles(axis, x[is_measured], values[:, is_measured], style, label, track)
  else:
    first = f"{label}, initialization"
    draw_profiles(axis, x, values[:, 0], style, first, track, linestyle=DASHED)
    draw_the_end(axis, x, values[:, 1:], style, label, track + 1)
  if over == "reach":
    axis.set_xscale("log", base=2)
