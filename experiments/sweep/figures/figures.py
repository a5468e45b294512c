"""Figures from records: how far the gradient reaches, what truncation cuts, how training went.

Every figure is a pure function of a Dataset; none of them trains, or touches matplotlib's global
state. Gradient norms are those of the bottom layer (layer 1) unless a figure shows all layers:
what reaches the bottom has come through all of depth as well as through time.

Exact zeros and overflows are markers on the edges of the axis; NaN is absent.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.plotting import style as look
from experiments.plotting.lines import (
  draw_cross,
  draw_curves,
  draw_points,
  draw_profiles,
  mark_cuts,
  mark_edges,
  spread,
  spread_by_blocks,
)
from experiments.sweep.figures.measures import measure_figures
from experiments.sweep.figures.panels import (
  DASHED,
  EARLY,
  at_the_end,
  bottom_layer,
  common_keys,
  describe,
  describe_seeds,
  describe_truncations,
  draw_the_end,
  edge_keys,
  group_runs,
  line_keys,
  line_styles,
  make_panels,
  rows_and_line,
  run_columns,
  varied_settings,
  with_largest,
)
from experiments.sweep.measures import MEASURES

LAG_NORM = MEASURES["lag"].labels["log10_lag_norm"]
TIME_NORM = r"$\log_{10}\,\|\partial L/\partial h_t\|$"
TIME = "time $t$ (time steps)"
CLIPPED = "clipped"
MOST_LINES = 10  # in a panel
MOST_POINTS = 100  # of a curve over training: longer ones are medians over blocks of steps


def save_all(gradients: xr.Dataset, metrics: xr.Dataset, folder: str | Path) -> list[Path]:
  """Writes every figure under `folder` as .png and .svg and returns their paths."""
  figures = {}
  if "log10_lag_norm" in gradients:
    few = len(line_styles(gradients, rows_and_line(gradients)[1])) <= MOST_LINES
    figures["gradient_decay"] = (gradient_decay if few else decay_maps)(gradients)
  figures |= {
    "gradient_by_truncation": gradient_by_truncation(gradients),
    "depth_by_time": depth_by_time(gradients),
    "training": training(metrics),
    **measure_figures(gradients),
  }
  return [path for name, fig in figures.items() for path in look.save(fig, Path(folder), name)]


def gradient_decay(gradients: xr.Dataset) -> Figure:
  """log10 ‖∂L_T/∂h_{T−k}‖ against the lag k, at initialisation and after training.

  One panel per depth and one line per cell, of the runs with the longest truncation. If a setting
  varies: one row of panels per cell and one line per value. Vertical marks show where truncations
  cut: the training gradient under truncation n keeps the lags up to n − 1.

  Args:
    gradients: `log10_lag_norm` [run, step, layer, lag].
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
    first = f"{label}, initialisation"
    draw_profiles(axis, lags, norms[runs, 0], style, first, track, linestyle=DASHED)
    if len(steps) > 1:
      draw_the_end(axis, lags, norms[runs, 1:], style, label, track + 1)
    drawn.append(runs)
  for panel, runs in group_runs(gradients, [*rows, "depth"]).items():
    cuts = sorted({truncations[run] for run in runs if truncations[run] <= lags[-1]})
    mark_cuts(panels[panel][0], cuts, lags[-1])

  keys = [*line_keys(line, styles), look.key(f"initialisation (step {steps[0]})", ls=DASHED)]
  if len(steps) > 1:
    keys.append(look.key(f"after training (step {steps[-1]})"))
  if min(truncations) <= lags[-1]:
    keys.append(look.key("cut of a truncation (its length above)", ls=":", lw=0.9))
  keys += common_keys(panels, drawn)
  trained = describe_truncations(gradients, drawn)
  pooled = describe_seeds(gradients, drawn)
  caption = f"Gradient of the loss at the last time step; trained with {trained}; {pooled}"
  look.annotate(figure, keys, caption)
  return figure


def decay_maps(gradients: xr.Dataset) -> Figure:
  """`gradient_decay` of more lines than a panel can hold: a heat map, with a row for each of them.

  Panels as there, one below the other, at initialisation and after training; rows by how much of
  the gradient is left at the last lag at initialisation.

  Args:
    gradients: `log10_lag_norm` [run, step, layer, lag].
  Returns:
    The figure.
  """
  rows, line = rows_and_line(gradients)
  norms = bottom_layer(gradients, "log10_lag_norm")
  lags, steps = gradients["lag"].values, gradients["step"].values
  truncations = run_columns(gradients)["truncation"]
  panels: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}
  drawn = []
  for (*place, value), found in group_runs(gradients, [*rows, "depth", line]).items():
    runs = with_largest(truncations, found)
    drawn.append(runs)
    ended, early = at_the_end(norms[runs])
    ends = [norms[runs, 0], next(v for v in (ended, early, norms[runs, -1]) if len(v))]
    median = np.stack([spread(values)[1] for values in ends])
    panels.setdefault(tuple(place), {})[describe(line, value)] = median
  found_names = {name for panel in panels.values() for name in panel}
  first = next(iter(panels.values()))
  absent = np.full((2, len(lags)), np.nan)
  names = sorted(found_names, key=lambda name: first.get(name, absent)[0, -1])
  when = [f"initialisation (step {steps[0]})", f"after training (step {steps[-1]})"]
  maps = []
  for setting, panel in panels.items():
    title = ", ".join(map(describe, [*rows, "depth"], setting))
    values = np.stack([panel.get(name, absent) for name in names], axis=1)
    maps.append([(f"{title}\n{w}", image) for w, image in zip(when, values, strict=True)])
    maps[-1] = maps[-1][: len(steps)]
  figure, keys = look.heat_maps(maps, lags, "lag $k$ (time steps)", f"{LAG_NORM}, layer 1", names)
  trained, pooled = describe_truncations(gradients, drawn), describe_seeds(gradients, drawn)
  caption = f"Gradient of the loss at the last time step; trained with {trained}; {pooled}"
  look.annotate(figure, keys, caption)
  return figure


def gradient_by_truncation(gradients: xr.Dataset) -> Figure:
  """log10 ‖∂L/∂h_t‖ of the training loss against the time t, one line per truncation.

  At the last recorded step; for a run that diverged, at the last one that could be measured. One
  panel per cell (row) and depth (column); settings with several values make further rows.

  Args:
    gradients: `log10_grad_norm` [run, step, layer, time].
  Returns:
    The figure.
  """
  rows = ["cell", *varied_settings(gradients)]
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
  when = "after training" if len(steps) > 1 else "at initialisation"
  pooled = describe_seeds(gradients, groups.values())
  caption = f"Gradient of the training loss {when} (step {steps[-1]}); {pooled}"
  look.annotate(figure, keys, caption)
  return figure


def depth_by_time(gradients: xr.Dataset) -> Figure:
  """Heat maps over layer and time of log10 ‖∂L/∂h_t‖, at initialisation and after training.

  One row of panels per cell, and per value of the settings that vary: its deepest network with the
  longest truncation, median over seeds. All panels share one colour scale.

  Args:
    gradients: `log10_grad_norm` [run, step, layer, time].
  Returns:
    The figure.
  """
  data = gradients["log10_grad_norm"].transpose("run", "step", "layer", "time")
  norms, steps = data.values.astype(float), data["step"].values
  columns, rows = run_columns(gradients), ["cell", *varied_settings(gradients)]
  maps: list[list[tuple[str, np.ndarray]]] = []
  drawn = []
  for row, found in group_runs(gradients, rows).items():
    runs = with_largest(columns["truncation"], with_largest(columns["depth"], found))
    drawn.append(runs)
    depth, length = (columns[name][runs[0]] for name in ("depth", "truncation"))
    name = ", ".join(map(describe, [*rows, "depth", "truncation"], [*row, depth, length]))
    values = norms[runs, :, :depth]
    panels = {f"initialisation (step {steps[0]})": values[:, 0]}
    if len(steps) > 1:
      ended, early = at_the_end(values)
      when = f"after training (step {steps[-1]})" if len(ended) or not len(early) else EARLY
      panels[when] = next(v for v in (ended, early, values[:, -1]) if len(v))
    maps.append([(f"{name}\n{when}", spread(v)[1]) for when, v in panels.items()])
  figure, keys = look.heat_maps(maps, data["time"].values, TIME, TIME_NORM)
  caption = f"Gradient of the training loss, deepest networks; {describe_seeds(gradients, drawn)}"
  look.annotate(figure, keys, caption)
  return figure


def training(metrics: xr.Dataset) -> Figure:
  """Loss and pre-clip gradient norm against the optimisation step.

  Every run is a thin line, with dots where something was clipped and a cross where it diverged;
  thick lines are medians over the seeds with the longest truncation. Panels and lines as in
  `gradient_decay`.

  Args:
    metrics: `loss`, `grad_norm` and `clipped` [run, update], with the attributes `loss_unit` and
      `baseline`.
  Returns:
    The figure.
  """
  rows, line = rows_and_line(metrics)
  columns, updates = run_columns(metrics), metrics["update"].values
  loss, grad_norm, clipped = (
    metrics[name].transpose("run", "update").values.astype(float)
    for name in ("loss", "grad_norm", "clipped")
  )
  unit, baseline = metrics.attrs["loss_unit"], metrics.attrs["baseline"]
  ceiling = _ceiling(loss, baseline)
  too_high = np.isfinite(loss) & (loss > ceiling)
  loss[too_high] = ceiling
  finite = loss[np.isfinite(loss) & (loss != 0)]
  wide = finite.size > 0 and 0 < 100 * finite.min() < finite.max()
  labels = [f"loss\n({unit})", "gradient norm\nbefore clipping"]
  scales = ["log" if wide else "linear", "log"]
  figure, panels = make_panels(metrics, rows, "optimisation step", labels, scales)
  styles = line_styles(metrics, line)
  block = math.ceil(len(updates) / MOST_POINTS)
  middles = spread_by_blocks(updates, block)[1]
  drawn, reasons = [], Counter[str]()
  for (*place, value), runs in group_runs(metrics, [*rows, "depth", line]).items():
    axes, style, track = panels[tuple(place)], styles[value], list(styles).index(value)
    drawn.append(with_largest(columns["truncation"], runs))
    pooled = [run in drawn[-1] for run in runs]
    for axis, values in zip(axes, (loss, grad_norm), strict=True):
      _, medians, _ = spread_by_blocks(values[runs], block)
      draw_curves(axis, middles, medians, pooled, style, describe(line, value), track)
      zero = 0.0 if axis.get_yscale() == "log" else math.nan
      mark_edges(axis, updates, values[runs], style, track, zero=zero)
    for run in runs:
      acted = np.where(clipped[run] > 0, grad_norm[run], np.nan)
      _, _, peaks = spread_by_blocks(acted, block)
      where = np.isfinite(peaks)
      draw_points(axes[1], middles[where], peaks[where], style, CLIPPED, marker=".", ms=2.5)
      if columns["status"][run] == "diverged":
        step, reason = _divergence(metrics.isel(run=run))
        reasons[reason] += 1
        for axis, values in zip(axes, (loss, grad_norm), strict=True):
          draw_cross(axis, step, updates, values[run], style, "diverged")
  # Only of the global norm is the limit one of what is drawn.
  limits = [
    limit if clip_by == "global_norm" else math.inf
    for limit, clip_by in zip(columns["clip_norm"], columns["clip_by"], strict=True)
  ]
  clip_norms = sorted(set(limits) - {math.inf})
  for panel, runs in group_runs(metrics, [*rows, "depth"]).items():
    panels[panel][0].axhline(baseline, color="black", ls="-.", lw=1, label="baseline")
    for clip_norm in clip_norms:
      if any(limits[run] == clip_norm for run in runs):
        panels[panel][1].axhline(clip_norm, color="black", ls="--", lw=1, label="clip norm")

  keys = [
    *line_keys(line, styles),
    look.key("every run", lw=0.6, alpha=0.7),
    look.key(
      f"{describe_seeds(metrics, drawn)} with {describe_truncations(metrics, drawn)}", lw=1.6
    ),
    look.key(f"baseline ({baseline:.3g} {unit})", color="black", ls="-."),
  ]
  if clip_norms:
    clips = ", ".join(f"{clip_norm:g}" for clip_norm in clip_norms)
    keys.append(look.key(f"clip norm ({clips})", color="black", ls="--"))
  if set(columns["clip_norm"]) - {math.inf}:
    peak = f"{CLIPPED} (largest norm of {block} steps)" if block > 1 else CLIPPED
    keys.append(look.key(peak, ls="none", marker=".", ms=4))
  if too_high.any():
    keys.append(look.key(f"losses above {ceiling:.3g} are drawn at {ceiling:.3g}", ls="none"))
  for reason, count in sorted(reasons.items()):
    label = f"diverged: {reason} ({count} run{'s' * (count > 1)})"
    keys.append(look.key(label, ls="none", marker="x", ms=7, mew=2))
  keys += edge_keys(panels)
  lines = f"; lines are medians over {block} steps at a time" if block > 1 else ""
  look.annotate(figure, keys, f"Training on the task {metrics.attrs['task']!r}{lines}")
  return figure


def _ceiling(loss: np.ndarray, baseline: float) -> float:
  """The loss above which a run that diverges would flatten all the others on a shared axis."""
  first = loss[:, 0][np.isfinite(loss[:, 0])]
  if not first.size or (loss < 0).any():
    return math.inf
  return 2 * max(float(np.median(first)), baseline)


def _divergence(run: xr.Dataset) -> tuple[float, str]:
  """The step at which a run diverged, and which of its metrics says so first."""
  updates = run["update"].values.astype(float)
  broken = {
    words: updates[~np.isfinite(run[name].values)]
    for name, words in {"loss": "loss", "grad_norm": "gradient norm"}.items()
  }
  step = float(run["diverged_step"])
  if step in updates and not any(step in steps for steps in broken.values()):
    return step, "updated params not finite"
  if math.isnan(step):
    step = float(min((steps[0] for steps in broken.values() if steps.size), default=updates[-1]))
  firsts = {words: steps[steps >= step].min(initial=math.inf) for words, steps in broken.items()}
  first = min(firsts, key=lambda words: firsts[words])
  return step, f"{first} not finite" if firsts[first] < math.inf else "reason not recorded"
