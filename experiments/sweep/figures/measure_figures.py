"""The figures of a sweep's measures, generated from the table `MEASURES`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plotting import style as plot_style
from experiments.plotting.lines import draw_profiles
from experiments.plotting.style import Style
from experiments.sweep.figures.panels import (
  DASHED,
  DEFAULT,
  Look,
  after_training,
  bottom_layer,
  choose_rows,
  common_keys,
  describe_seeds,
  describe_truncations,
  draw_the_end,
  group_runs,
  has_diverged,
  line_keys,
  line_styles,
  make_panels,
  rows_and_line,
  run_columns,
  with_largest,
)
from experiments.sweep.measures.table import MEASURES

X_LABELS = {
  "step": "optimization step",
  "time": "time $t$ (time steps)",
  "lag": "lag $k$ (time steps)",
  "exponent": "index of the exponent",
  "reach": "truncation (time steps)",
  "share_lag": "lag $k$ (time steps)",
}


# Variables that figures of their own show.
_DRAWN = ("log10_grad_norm", "log10_lag_norm")
# Largest values that a measure's figure shows below its own variables, if they were recorded.
# {measure: {variable: (dimension over which the maximum is taken, label of the axis)}}.
_MAXIMA = {
  "curvature": {
    "log10_grad_norm": ("time", "largest\n" + r"$\log_{10}\,\|\partial L/\partial h_t\|$"),
    "lyapunov_exponent": ("exponent", "largest\nLyapunov\nexponent"),
  }
}


def measure_figures(gradients: xr.Dataset) -> dict[str, Callable[..., Figure]]:
  """Returns {name: function that draws the figure} for the recorded measures.

  A figure has the name of its measure. If the measure's variables are drawn against different
  dimensions, those of the second one have a figure `MEASURE_by_DIMENSION`. A variable that no
  measure in `MEASURES` declares, such as one of a measure that another version has, has a figure of
  its own, with the variable's name. The variable `log10_lag_norm` is left out, because the figure
  `gradient_decay` shows it, and so are the variables in `undrawn`. Below the Hessian's eigenvalues,
  `curvature` shows the largest gradient norm and, if it was measured, Lyapunov exponent.

  A function's arguments are the gradients and a `Look`.
  """
  missing = undrawn(gradients)
  figures: dict[str, Callable[..., Figure]] = {}
  for name, measure in MEASURES.items():
    found = {v: label for v, label in measure.labels.items() if v in gradients}
    found = {v: label for v, label in found.items() if v not in _DRAWN and v not in missing}
    by_dim: dict[str, dict[str, str]] = {}
    for variable, label in found.items():
      by_dim.setdefault(_dims(gradients, variable)[-1], {})[variable] = label
    for i, (dim, own) in enumerate(by_dim.items()):
      figure = f"{name}_by_{dim}" if i else name
      figures[figure] = functools.partial(_figure, variables=own, name=name)
  for variable in _undeclared(gradients):
    if variable not in missing:
      labels = {variable: variable.replace("_", " ")}
      figures[variable] = functools.partial(_figure, variables=labels, name=variable)
  return figures


def undrawn(gradients: xr.Dataset) -> dict[str, tuple[str, ...]]:
  """Returns {variable: its dimensions besides run, step and layer} where these are too many."""
  declared = {v for measure in MEASURES.values() for v in measure.labels if v in gradients}
  others = {name: _dims(gradients, name) for name in {*declared, *_undeclared(gradients)}}
  return {name: dims[1:] for name, dims in sorted(others.items()) if len(dims) > 2}


def _undeclared(gradients: xr.Dataset) -> list[str]:
  """Returns the variables that neither a measure declares nor belong to a leaf of the carry."""
  known = [*_DRAWN, *(variable for measure in MEASURES.values() for variable in measure.labels)]
  leaves = tuple(f"{name}_" for name in known)
  names = [str(name) for name in gradients.data_vars]
  return [name for name in names if name not in known and not name.startswith(leaves)]


def _dims(gradients: xr.Dataset, variable: str) -> tuple[str, ...]:
  """Returns the dimensions of a variable besides run and layer; the first one is the step."""
  return tuple(str(dim) for dim in gradients[variable].dims if dim not in ("run", "layer"))


def _figure(
  gradients: xr.Dataset, look: Look = DEFAULT, *, variables: Mapping[str, str], name: str
) -> Figure:
  """Draws the measure `name`; each panel is a stack of axes, one for each variable.

  Panels and lines are chosen as in `gradient_decay`. A variable with one value per run, step and
  layer is drawn against the optimization step. A variable with a further dimension (time, lag, …)
  is drawn against this dimension, at initialization and after training. If a variable has layers,
  only layer 1 is drawn.

  Args:
    gradients: dataset with the variables.
    look: what the user chose about the figure.
    variables: {variable: label of its axis}.
    name: name of the measure.
  """
  for variable, (dim, label) in _MAXIMA.get(name, {}).items():
    if variable in gradients:
      largest = f"largest_{variable}"
      gradients = gradients.assign({largest: gradients[variable].max(dim)})
      variables = {**variables, largest: label}
  rows, line = rows_and_line(gradients, look.facet)
  gradients, chosen = choose_rows(gradients, rows, len(variables))
  truncations, styles = run_columns(gradients)["truncation"], line_styles(gradients, line)
  diverged = has_diverged(gradients)
  over = _dims(gradients, next(iter(variables)))[-1]
  x_label, labels = X_LABELS.get(over, over.replace("_", " ")), [*variables.values()]
  figure, panels = make_panels(gradients, rows, x_label, labels, width=look.width)
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    drawn.append(runs)
    track = 2 * list(styles).index(value)
    for axis, variable in zip(panels[tuple(place)], variables, strict=True):
      profiles = bottom_layer(gradients, variable)[runs]
      if not np.isnan(profiles).all():  # all NaN if the cell lacks what is measured, such as a gate
        own = profiles, diverged[runs], styles[value], str(value), track
        _draw(axis, over, gradients[over].values, *own, look.band)
  steps = gradients["step"].values
  keys: list[Artist] = [*line_keys(line, styles)]
  if over != "step":
    keys.append(plot_style.key(f"initialization (step {steps[0]})", ls=DASHED))
    if len(steps) > 1:
      keys.append(plot_style.key(after_training(gradients)))
  keys += common_keys(panels, drawn, look.band)
  if name in MEASURES and (bounds := MEASURES[name].bounds) is not None:
    for axis in figure.axes:
      axis.set_ylim(bounds[0] - 0.05, bounds[1] + 0.05)
  trained = describe_truncations(gradients, drawn)
  pooled = describe_seeds(gradients, drawn, look.band)
  where = ", layer 1" if any("layer" in gradients[v].dims for v in variables) else ""
  caption = f"Measure {name!r}{where}; trained with {trained}; {pooled}{chosen}"
  plot_style.annotate(figure, keys, caption)
  return figure


def _draw(
  axis: Axes,
  over: str,
  x: Shaped[np.ndarray, " x"],
  values: Float[np.ndarray, "seeds step x"] | Float[np.ndarray, "seeds x"],
  diverged: Bool[np.ndarray, " seeds"],
  style: Style,
  label: str,
  track: int,
  band: str,
) -> None:
  """Draws the values of one cell or setting against x, the coordinates of the dimension `over`.

  If `over` is `step`, draws one line over all of training. Otherwise draws one line for
  initialization and one for the end of training.
  """
  if over == "step":
    is_measured = ~np.isnan(values).all(axis=0)
    draw_profiles(axis, x[is_measured], values[:, is_measured], style, label, track, band=band)
  else:
    first = f"{label}, initialization"
    draw_profiles(axis, x, values[:, 0], style, first, track, DASHED, band)
    if values.shape[1] > 1:
      draw_the_end(axis, x, values[:, 1:], diverged, style, label, track + 1, band)
  if over == "reach":
    axis.set_xscale("log", base=2)
