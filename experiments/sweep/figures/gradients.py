"""Figures of a sweep: how far the gradient reaches, and what truncation cuts.

Every figure is drawn by a pure function of an xarray Dataset, which does not touch matplotlib's
global state. Unless a figure shows all layers, gradient norms are those of layer 1, the bottom
layer, because a gradient that reaches it has passed through all of depth and time.

Exact zeros and overflows are drawn as markers on the edges of the axis. NaN is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.cli import plugins
from experiments.plotting import style as plot_style
from experiments.plotting.lines import draw_profiles, mark_cuts, spread
from experiments.runtime import exits
from experiments.sweep.figures.measure_figures import measure_figures
from experiments.sweep.figures.panels import (
  DASHED,
  DEFAULT,
  EARLY,
  Look,
  after_training,
  at_the_end,
  bottom_layer,
  choose_rows,
  common_keys,
  describe,
  describe_seeds,
  describe_truncations,
  draw_the_end,
  group_runs,
  has_diverged,
  line_keys,
  line_styles,
  make_panels,
  panel_rows,
  rows_and_line,
  run_columns,
  varied_settings,
  with_largest,
)
from experiments.sweep.figures.registered import FIGURES
from experiments.sweep.figures.training import training
from experiments.sweep.measures.table import MEASURES
from rnn_jax import checks

LAG_NORM = MEASURES["lag"].labels["log10_lag_norm"]
TIME_NORM = r"$\log_{10}\,\|\partial L/\partial h_t\|$"
LAG = "lag $k$ (time steps)"
TIME = "time $t$ (time steps)"
# The largest number of lines in a panel of `gradient_decay`. A sweep with more lines is drawn by
# `decay_maps` as heat maps instead.
MAX_LINES = 10


def save_all(
  gradients: xr.Dataset,
  metrics: xr.Dataset,
  folder: str | Path,
  names: Collection[str] | None = None,
  look: Look = DEFAULT,
  formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
  """Writes figures to a folder, and returns the paths of the files.

  Args:
    gradients: norms and measures of the runs.
    metrics: losses and gradient norms of the runs.
    folder: the folder.
    names: names of the figures; None for all that the records have.
    look: what the user chose about the figures.
    formats: formats of the files, each of `FORMATS`.
  """
  makers = figure_makers(gradients)
  chosen = [name for name in makers if names is None or name in names]
  figures = {
    name: makers[name](metrics if makers[name] is training else gradients, look)
    for name in chosen
    if name not in FIGURES
  }
  paths = [
    path
    for name, figure in figures.items()
    for path in plot_style.save(figure, Path(folder), name, formats)
  ]
  for name in chosen:
    if name in FIGURES:
      paths += _save_registered(name, gradients, Path(folder), look, formats)
  return paths


def _save_registered(
  name: str, gradients: xr.Dataset, folder: Path, look: Look, formats: Sequence[str]
) -> list[Path]:
  """Writes a figure of the user's; returns the paths of the files, or [] if it cannot be drawn.

  An error in it is a warning, because it must not end a sweep whose records are complete.
  """
  try:
    figure = FIGURES[name](gradients, look)
    if figure is None:
      return []
    checks.instance("what it returns", figure, Figure)
    return plot_style.save(figure, folder, name, formats)
  except OSError:
    raise
  except Exception as error:  # the user's function may raise anything
    exits.warn(f"the figure {name} was not drawn: {plugins.describe(error)}.")
    return []


def figure_makers(gradients: xr.Dataset) -> dict[str, Callable[..., Any]]:
  """Returns {name of a figure: function that draws it} for the figures that the records have.

  A function's arguments are the gradients, or for `training` the metrics, and a `Look`.
  """
  makers: dict[str, Callable[..., Any]] = {}
  if "log10_lag_norm" in gradients:
    makers["gradient_decay"] = decay
  if _with_norms(gradients).sizes["run"]:
    makers |= {"gradient_by_truncation": gradient_by_truncation, "depth_by_time": depth_by_time}
  return {
    **makers,
    "training": training,
    **measure_figures(gradients),
    **FIGURES,
  }


def _with_norms(gradients: xr.Dataset) -> xr.Dataset:
  """Returns the runs that have dL/dh_t; a forward estimator has none."""
  norms = gradients["log10_grad_norm"]
  known = norms.notnull().any([dim for dim in norms.dims if dim != "run"])
  return gradients.isel(run=np.flatnonzero(known.values))


def decay(gradients: xr.Dataset, look: Look = DEFAULT) -> Figure:
  """Draws `gradient_decay`, or `decay_maps` if a panel would have more than `MAX_LINES` lines."""
  _, line = rows_and_line(gradients, look.facet)
  few = len(line_styles(gradients, line)) <= MAX_LINES
  return (gradient_decay if few else decay_maps)(gradients, look)


def gradient_decay(gradients: xr.Dataset, look: Look = DEFAULT) -> Figure:
  """Draws log10 ‖∂L_T/∂h_{T−k}‖ against the lag k, at initialization and after training.

  There is one panel per depth and one line per cell, for the runs with the longest truncation. If a
  setting such as the recurrent gain varies, there is one row of panels per cell and one line per
  value of the setting. Vertical marks show where shorter truncations cut the training gradient: a
  truncation of n steps keeps the lags up to n − 1.

  Args:
    gradients: dataset with `log10_lag_norm` [run, step, layer, lag].
    look: what the user chose about the figure.
  Returns:
    The figure.
  """
  rows, line = rows_and_line(gradients, look.facet)
  gradients, chosen = choose_rows(gradients, rows)
  norms = bottom_layer(gradients, "log10_lag_norm")
  lags, steps = gradients["lag"].values, gradients["step"].values
  truncations, diverged = run_columns(gradients)["truncation"], has_diverged(gradients)
  styles = line_styles(gradients, line)
  labels = [f"{LAG_NORM}, layer 1"]
  figure, panels = make_panels(gradients, rows, LAG, labels, width=look.width)
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    axis, style, track = panels[tuple(place)][0], styles[value], 2 * list(styles).index(value)
    label = describe(line, value)
    first = f"{label}, initialization"
    draw_profiles(axis, lags, norms[runs, 0], style, first, track, DASHED, look.band)
    if len(steps) > 1:
      end = norms[runs, 1:], diverged[runs]
      draw_the_end(axis, lags, *end, style, label, track + 1, look.band)
    drawn.append(runs)
  for panel, runs in group_runs(gradients, [*rows, "depth"]).items():
    cuts = sorted({truncations[run] for run in runs if truncations[run] <= lags[-1]})
    mark_cuts(panels[panel][0], cuts, lags[-1])

  keys = [*line_keys(line, styles), plot_style.key(f"initialization (step {steps[0]})", ls=DASHED)]
  if len(steps) > 1:
    keys.append(plot_style.key(after_training(gradients)))
  if min(truncations) <= lags[-1]:
    keys.append(plot_style.key("cut of a truncation (its length at the top)", ls=":", lw=0.9))
  keys += common_keys(panels, drawn, look.band)
  caption = _decay_caption(gradients, drawn, look.band)
  plot_style.annotate(figure, keys, caption + chosen)
  return figure


def decay_maps(gradients: xr.Dataset, look: Look = DEFAULT) -> Figure:
  """Draws the lines of `gradient_decay` as rows of heat maps, for sweeps with too many lines.

  Each panel of `gradient_decay` becomes a pair of heat maps: initialization on the left, after
  training on the right. In all heat maps, rows are sorted by the norm at the largest lag in the
  first heat map.

  Args:
    gradients: dataset with `log10_lag_norm` [run, step, layer, lag].
    look: what the user chose about the figure.
  Returns:
    The figure.
  """
  rows, line = rows_and_line(gradients, look.facet)
  gradients, chosen = choose_rows(gradients, rows)
  lags, steps = gradients["lag"].values, gradients["step"].values
  panels, drawn = _profiles_by_panel(gradients, rows, line)
  first = next(iter(panels.values()))
  absent = np.full((2, len(lags)), np.nan)
  found = {name for panel in panels.values() for name in panel}
  names = sorted(found, key=lambda name: first.get(name, absent)[0, -1])
  when = [f"initialization (step {steps[0]})", after_training(gradients)]
  maps = []
  for setting, panel in panels.items():
    title = ", ".join(map(describe, [*rows, "depth"], setting))
    values = np.stack([panel.get(name, absent) for name in names], axis=1)
    maps.append([(f"{title}\n{w}", image) for w, image in zip(when, values, strict=True)])
    maps[-1] = maps[-1][: len(steps)]
  label = f"{LAG_NORM}, layer 1"
  figure, keys = plot_style.heat_maps(maps, lags, LAG, label, names, look.width)
  plot_style.annotate(figure, keys, _decay_caption(gradients, drawn) + chosen)
  return figure


def _profiles_by_panel(
  gradients: xr.Dataset, rows: Sequence[str], line: str
) -> tuple[dict[tuple[Hashable, ...], dict[str, Float[np.ndarray, "ends lags"]]], list[list[int]]]:
  """Returns the median profiles that `decay_maps` draws.

  Returns:
    ({panel: {line: profiles [2, lags] at initialization and after training}}, indices of the runs
    of each line).
  """
  norms = bottom_layer(gradients, "log10_lag_norm")
  truncations, diverged = run_columns(gradients)["truncation"], has_diverged(gradients)
  panels: dict[tuple[Hashable, ...], dict[str, Float[np.ndarray, "ends lags"]]] = {}
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    drawn.append(runs)
    ended, early = at_the_end(norms[runs], diverged[runs])
    ends = [norms[runs, 0], next(v for v in (ended, early, norms[runs, -1]) if len(v))]
    median = np.stack([spread(values)[1] for values in ends])
    panels.setdefault(tuple(place), {})[describe(line, value)] = median
  return panels, drawn


def _decay_caption(
  gradients: xr.Dataset, drawn: Sequence[Sequence[int]], band: str = "minmax"
) -> str:
  trained, pooled = describe_truncations(gradients, drawn), describe_seeds(gradients, drawn, band)
  return f"Gradient of the loss at the last time step; trained with {trained}; {pooled}"


def gradient_by_truncation(gradients: xr.Dataset, look: Look = DEFAULT) -> Figure:
  """Draws log10 ‖∂L/∂h_t‖ of the training loss against the time step t, one line per truncation.

  The lines show the last recorded step; for a run that diverged, they show the last step that was
  measured. Panels have one row per cell and one column per depth. Settings with several values add
  rows.

  Args:
    gradients: dataset with `log10_grad_norm` [run, step, layer, time].
    look: what the user chose about the figure.
  Returns:
    The figure.
  """
  gradients = _with_norms(gradients)
  rows = panel_rows(varied_settings(gradients), look.facet)
  gradients, chosen = choose_rows(gradients, rows)
  norms = bottom_layer(gradients, "log10_grad_norm")
  times, steps = gradients["time"].values, gradients["step"].values
  styles = line_styles(gradients, "truncation")
  diverged = has_diverged(gradients)
  labels = [f"{TIME_NORM}, layer 1"]
  figure, panels = make_panels(gradients, rows, TIME, labels, width=look.width)
  groups = group_runs(gradients, [*rows, "depth", "truncation"])
  for (*place, length), runs in groups.items():
    axis, track = panels[tuple(place)][0], list(styles).index(length)
    label = describe("truncation", length)
    end = norms[runs], diverged[runs]
    draw_the_end(axis, times, *end, styles[length], label, track, look.band)
  keys = [*line_keys("truncation", styles), *common_keys(panels, groups.values(), look.band)]
  when = after_training(gradients) if len(steps) > 1 else f"at initialization (step {steps[0]})"
  pooled = describe_seeds(gradients, groups.values(), look.band)
  caption = f"Gradient of the training loss {when}; {pooled}{chosen}"
  plot_style.annotate(figure, keys, caption)
  return figure


def depth_by_time(gradients: xr.Dataset, look: Look = DEFAULT) -> Figure:
  """Draws log10 ‖∂L/∂h_t‖ as heat maps with axes (layer, time), before and after training.

  There is one row of panels for each combination of a cell with values of the settings that vary.
  A row shows the deepest network with the longest truncation, as the median over seeds. All panels
  share one color scale.

  Args:
    gradients: dataset with `log10_grad_norm` [run, step, layer, time].
    look: what the user chose about the figure.
  Returns:
    The figure.
  """
  gradients = _with_norms(gradients)
  rows = panel_rows(varied_settings(gradients), look.facet)
  gradients, chosen = choose_rows(gradients, rows)
  data = gradients["log10_grad_norm"].transpose("run", "step", "layer", "time")
  norms, steps = data.values.astype(float), data["step"].values
  columns, diverged = run_columns(gradients), has_diverged(gradients)
  maps: list[list[tuple[str, Float[np.ndarray, "layer time"]]]] = []
  drawn = []
  for row, found in group_runs(gradients, rows).items():
    runs = with_largest(columns["truncation"], with_largest(columns["depth"], found))
    drawn.append(runs)
    depth, length = (columns[name][runs[0]] for name in ("depth", "truncation"))
    name = ", ".join(map(describe, [*rows, "depth", "truncation"], [*row, depth, length]))
    values = norms[runs, :, :depth]
    panels = {f"initialization (step {steps[0]})": values[:, 0]}
    if len(steps) > 1:
      ended, early = at_the_end(values, diverged[runs])
      when = after_training(gradients) if len(ended) or not len(early) else EARLY
      panels[when] = next(v for v in (ended, early, values[:, -1]) if len(v))
    maps.append([(f"{name}\n{when}", spread(v)[1]) for when, v in panels.items()])
  times = data["time"].values
  figure, keys = plot_style.heat_maps(maps, times, TIME, TIME_NORM, width=look.width)
  pooled = describe_seeds(gradients, drawn)
  caption = f"Gradient of the training loss, deepest networks; {pooled}{chosen}"
  plot_style.annotate(figure, keys, caption)
  return figure
