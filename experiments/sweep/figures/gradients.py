"""Figures of a sweep: how far the gradient reaches, and what truncation cuts.

Every figure is drawn by a pure function of an xarray Dataset, which does not touch matplotlib's
global state. Unless a figure shows all layers, gradient norms are those of layer 1, the bottom
layer, because a gradient that reaches it has passed through all of depth and time.

Exact zeros and overflows are drawn as markers on the edges of the axis. NaN is not drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.plotting import style as plot_style
from experiments.plotting.lines import draw_profiles, mark_cuts, spread
from experiments.sweep.figures.measure_figures import measure_figures
from experiments.sweep.figures.panels import (
  DASHED,
  EARLY,
  at_the_end,
  bottom_layer,
  choose_rows,
  common_keys,
  describe,
  describe_seeds,
  describe_truncations,
  draw_the_end,
  group_runs,
  line_keys,
  line_styles,
  make_panels,
  rows_and_line,
  run_columns,
  varied_settings,
  with_largest,
)
from experiments.sweep.figures.training import training
from experiments.sweep.measures import MEASURES

LAG_NORM = MEASURES["lag"].labels["log10_lag_norm"]
TIME_NORM = r"$\log_{10}\,\|\partial L/\partial h_t\|$"
TIME = "time $t$ (time steps)"
# The largest number of lines in a panel of `gradient_decay`. A sweep with more lines is drawn by
# `decay_maps` as heat maps instead.
MAX_LINES = 10


def save_all(gradients: xr.Dataset, metrics: xr.Dataset, folder: str | Path) -> list[Path]:
  """Writes every figure to `folder` as .png and .svg, and returns the paths of these files."""
  figures = {}
  if "log10_lag_norm" in gradients:
    few = len(line_styles(gradients, rows_and_line(gradients)[1])) <= MAX_LINES
    figures["gradient_decay"] = (gradient_decay if few else decay_maps)(gradients)
  figures |= {
    "gradient_by_truncation": gradient_by_truncation(gradients),
    "depth_by_time": depth_by_time(gradients),
    "training": training(metrics),
    **measure_figures(gradients),
  }
  return [
    path for name, fig in figures.items() for path in plot_style.save(fig, Path(folder), name)
  ]


def gradient_decay(gradients: xr.Dataset) -> Figure:
  """Draws log10 ‖∂L_T/∂h_{T−k}‖ against the lag k, at initialization and after training.

  There is one panel per depth and one line per cell, for the runs with the longest truncation. If a
  setting such as the recurrent gain varies, there is one row of panels per cell and one line per
  value of the setting. Vertical marks show where shorter truncations cut the training gradient: a
  truncation of n steps keeps the lags up to n − 1.

  Args:
    gradients: dataset with `log10_lag_norm` [run, step, layer, lag].
  Returns:
    The figure.
  """
  rows, line = rows_and_line(gradients)
  norms = bottom_layer(gradients, "log10_lag_norm")
  lags, steps = gradients["lag"].values, gradients["step"].values
  truncations = run_columns(gradients)["truncation"]
  styles = line_styles(gradients, line)
  figure, panels = make_panels(gradients, rows, "lag $k$ (time steps)", [f"{LAG_NORM}, layer 1"])
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    axis, style, track = panels[tuple(place)][0], styles[value], 2 * list(styles).index(value)
    label = describe(line, value)
    first = f"{label}, initialization"
    draw_profiles(axis, lags, norms[runs, 0], style, first, track, linestyle=DASHED)
    if len(steps) > 1:
      draw_the_end(axis, lags, norms[runs, 1:], style, label, track + 1)
    drawn.append(runs)
  for panel, runs in group_runs(gradients, [*rows, "depth"]).items():
    cuts = sorted({truncations[run] for run in runs if truncations[run] <= lags[-1]})
    mark_cuts(panels[panel][0], cuts, lags[-1])

  keys = [*line_keys(line, styles), plot_style.key(f"initialization (step {steps[0]})", ls=DASHED)]
  if len(steps) > 1:
    keys.append(plot_style.key(f"after training (step {steps[-1]})"))
  if min(truncations) <= lags[-1]:
    keys.append(plot_style.key("cut of a truncation (its length at the top)", ls=":", lw=0.9))
  keys += common_keys(panels, drawn)
  plot_style.annotate(figure, keys, _decay_caption(gradients, drawn))
  return figure


def decay_maps(gradients: xr.Dataset) -> Figure:
  """Draws the lines of `gradient_decay` as rows of heat maps, for sweeps with too many lines.

  Each panel of `gradient_decay` becomes a pair of heat maps: initialization on the left, after
  training on the right. In all heat maps, rows are sorted by the norm at the largest lag in the
  first heat map.

  Args:
    gradients: dataset with `log10_lag_norm` [run, step, layer, lag].
  Returns:
    The figure.
  """
  rows, line = rows_and_line(gradients)
  lags, steps = gradients["lag"].values, gradients["step"].values
  panels, drawn = _profiles_by_panel(gradients, rows, line)
  first = next(iter(panels.values()))
  absent = np.full((2, len(lags)), np.nan)
  found = {name for panel in panels.values() for name in panel}
  names = sorted(found, key=lambda name: first.get(name, absent)[0, -1])
  when = [f"initialization (step {steps[0]})", f"after training (step {steps[-1]})"]
  maps = []
  for setting, panel in panels.items():
    title = ", ".join(map(describe, [*rows, "depth"], setting))
    values = np.stack([panel.get(name, absent) for name in names], axis=1)
    maps.append([(f"{title}\n{w}", image) for w, image in zip(when, values, strict=True)])
    maps[-1] = maps[-1][: len(steps)]
  figure, keys = plot_style.heat_maps(
    maps, lags, "lag $k$ (time steps)", f"{LAG_NORM}, layer 1", names
  )
  plot_style.annotate(figure, keys, _decay_caption(gradients, drawn))
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
  truncations = run_columns(gradients)["truncation"]
  panels: dict[tuple[Hashable, ...], dict[str, Float[np.ndarray, "ends lags"]]] = {}
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    drawn.append(runs)
    ended, early = at_the_end(norms[runs])
    ends = [norms[runs, 0], next(v for v in (ended, early, norms[runs, -1]) if len(v))]
    median = np.stack([spread(values)[1] for values in ends])
    panels.setdefault(tuple(place), {})[describe(line, value)] = median
  return panels, drawn


def _decay_caption(gradients: xr.Dataset, drawn: Sequence[Sequence[int]]) -> str:
  trained, pooled = describe_truncations(gradients, drawn), describe_seeds(gradients, drawn)
  return f"Gradient of the loss at the last time step; trained with {trained}; {pooled}"


def gradient_by_truncation(gradients: xr.Dataset) -> Figure:
  """Draws log10 ‖∂L/∂h_t‖ of the training loss against the time step t, one line per truncation.

  The lines show the last recorded step; for a run that diverged, they show the last step that was
  measured. Panels have one row per cell and one column per depth. Settings with several values add
  rows.

  Args:
    gradients: dataset with `log10_grad_norm` [run, step, layer, time].
  Returns:
    The figure.
  """
  rows = ["cell", *varied_settings(gradients)]
  gradients, chosen = choose_rows(gradients, rows)
  norms = bottom_layer(gradients, "log10_grad_norm")
  times, steps = gradients["time"].values, gradients["step"].values
  styles = line_styles(gradients, "truncation")
  figure, panels = make_panels(gradients, rows, TIME, [f"{TIME_NORM}, layer 1"])
  groups = group_runs(gradients, [*rows, "depth", "truncation"])
  for (*place, length), runs in groups.items():
    axis, track = panels[tuple(place)][0], list(styles).index(length)
    label = describe("truncation", length)
    draw_the_end(axis, times, norms[runs], styles[length], label, track)
  keys = [*line_keys("truncation", styles), *common_keys(panels, groups.values())]
  when = "after training" if len(steps) > 1 else "at initialization"
  pooled = describe_seeds(gradients, groups.values())
  caption = f"Gradient of the training loss {when} (step {steps[-1]}); {pooled}{chosen}"
  plot_style.annotate(figure, keys, caption)
  return figure


def depth_by_time(gradients: xr.Dataset) -> Figure:
  """Draws log10 ‖∂L/∂h_t‖ as heat maps with axes (layer, time), before and after training.

  There is one row of panels for each combination of a cell with values of the settings that vary.
  A row shows the deepest network with the longest truncation, as the median over seeds. All panels
  share one color scale.

  Args:
    gradients: dataset with `log10_grad_norm` [run, step, layer, time].
  Returns:
    The figure.
  """
  rows = ["cell", *varied_settings(gradients)]
  gradients, chosen = choose_rows(gradients, rows)
  data = gradients["log10_grad_norm"].transpose("run", "step", "layer", "time")
  norms, steps = data.values.astype(float), data["step"].values
  columns = run_columns(gradients)
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
      ended, early = at_the_end(values)
      when = f"after training (step {steps[-1]})" if len(ended) or not len(early) else EARLY
      panels[when] = next(v for v in (ended, early, values[:, -1]) if len(v))
    maps.append([(f"{name}\n{when}", spread(v)[1]) for when, v in panels.items()])
  figure, keys = plot_style.heat_maps(maps, data["time"].values, TIME, TIME_NORM)
  pooled = describe_seeds(gradients, drawn)
  caption = f"Gradient of the training loss, deepest networks; {pooled}{chosen}"
  plot_style.annotate(figure, keys, caption)
  return figure
