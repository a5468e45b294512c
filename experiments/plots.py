"""Figures from records: how far the gradient reaches, what truncation cuts, how training went.

Every figure is a pure function of a Dataset; none of them trains, or touches matplotlib's global
state. Gradient norms are those of the bottom layer (layer 1) unless a figure shows all layers:
what reaches the bottom has come through all of depth as well as through time.

Only seeds are ever pooled: median line, band from minimum to maximum. A setting with several
values, such as the recurrent gain, becomes one line per value, and further ones become panels.
Exact zeros and overflows are markers on the edges of the axis; NaN is absent.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments import plot_style as look
from experiments.plot_style import Style

# Along `run`, these are no settings; all other coordinates are, and keep lines or panels apart.
NOT_SETTINGS = ("run", "cell", "depth", "truncation", "seed", "status", "diverged_step")

LAG_NORM = r"$\log_{10}\,\|\partial L_T/\partial h_{T-k}\|$"
TIME_NORM = r"$\log_{10}\,\|\partial L/\partial h_t\|$"
TIME = "time $t$ (time steps)"
DASHED = (0, (4, 2))
EARLY = "diverged: last step measured"
CLIPPED = "clipped"
MOST_POINTS = 100  # of a curve over training: longer ones are medians over blocks of steps

Panels = dict[tuple[Any, ...], list[Axes]]  # (value of each row setting …, depth) -> axes


def save_all(gradients: xr.Dataset, metrics: xr.Dataset, folder: str | Path) -> list[Path]:
  """Writes every figure under `folder` as .png and .svg and returns their paths."""
  figures = {
    "gradient_decay": gradient_decay(gradients),
    "gradient_by_truncation": gradient_by_truncation(gradients),
    "depth_by_time": depth_by_time(gradients),
    "training": training(metrics),
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
  rows, line = _rows_and_line(gradients)
  norms = _bottom_layer(gradients, "log10_lag_norm")
  lags, steps = gradients["lag"].values, gradients["step"].values
  truncations = _columns(gradients)["truncation"]
  styles = _line_styles(gradients, line)
  figure, panels = _panels(gradients, rows, "lag $k$ (time steps)", [f"{LAG_NORM}, layer 1"])
  drawn = []
  for (*place, value), found in _groups(gradients, [*rows, "depth", line]).items():
    runs = _largest(truncations, found)
    axis, style, track = panels[tuple(place)][0], styles[value], 2 * list(styles).index(value)
    label = _describe(line, value)
    first = f"{label}, initialisation"
    look.draw_profiles(axis, lags, norms[runs, 0], style, first, track, linestyle=DASHED)
    if len(steps) > 1:
      _draw_latest(axis, lags, norms[runs, 1:], style, label, track + 1)
    drawn.append(runs)
  for panel, runs in _groups(gradients, [*rows, "depth"]).items():
    cuts = sorted({truncations[run] for run in runs if truncations[run] <= lags[-1]})
    look.mark_cuts(panels[panel][0], cuts, lags[-1])

  keys = [*_line_keys(line, styles), look.key(f"initialisation (step {steps[0]})", ls=DASHED)]
  if len(steps) > 1:
    keys.append(look.key(f"after training (step {steps[-1]})"))
  if min(truncations) <= lags[-1]:
    keys.append(look.key("cut of a truncation (its length above)", ls=":", lw=0.9))
  keys += _common_keys(panels, drawn)
  trained = _truncations(gradients, drawn)
  pooled = _seeds(gradients, drawn)
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
  rows = ["cell", *_varied(gradients)]
  norms = _bottom_layer(gradients, "log10_grad_norm")
  times, steps = gradients["time"].values, gradients["step"].values
  styles = _line_styles(gradients, "truncation")
  figure, panels = _panels(gradients, rows, TIME, [f"{TIME_NORM}, layer 1"])
  groups = _groups(gradients, [*rows, "depth", "truncation"])
  for (*place, length), runs in groups.items():
    axis, track = panels[tuple(place)][0], list(styles).index(length)
    label = _describe("truncation", length)
    _draw_latest(axis, times, norms[runs], styles[length], label, track)
  keys = [*_line_keys("truncation", styles), *_common_keys(panels, groups.values())]
  when = "after training" if len(steps) > 1 else "at initialisation"
  caption = (
    f"Gradient of the training loss {when} (step {steps[-1]}); {_seeds(gradients, groups.values())}"
  )
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
  columns, rows = _columns(gradients), ["cell", *_varied(gradients)]
  maps: list[list[tuple[str, np.ndarray]]] = []
  drawn = []
  for row, found in _groups(gradients, rows).items():
    runs = _largest(columns["truncation"], _largest(columns["depth"], found))
    drawn.append(runs)
    depth, length = (columns[name][runs[0]] for name in ("depth", "truncation"))
    name = ", ".join(map(_describe, [*rows, "depth", "truncation"], [*row, depth, length]))
    values = norms[runs, :, :depth]
    panels = {f"initialisation (step {steps[0]})": values[:, 0]}
    if len(steps) > 1:
      ended, early = _latest(values)
      when = f"after training (step {steps[-1]})" if len(ended) or not len(early) else EARLY
      panels[when] = next(v for v in (ended, early, values[:, -1]) if len(v))
    maps.append([(f"{name}\n{when}", look.spread(v)[1]) for when, v in panels.items()])
  figure, keys = look.heat_maps(maps, data["time"].values, TIME, TIME_NORM)
  caption = f"Gradient of the training loss, deepest networks; {_seeds(gradients, drawn)}"
  look.annotate(figure, keys, caption)
  return figure


def training(metrics: xr.Dataset) -> Figure:
  """Loss and pre-clip gradient norm against the optimisation step.

  Every run is a thin line, with dots where its gradient was clipped and a cross where it diverged;
  thick lines are medians over the seeds with the longest truncation. Panels and lines as in
  `gradient_decay`.

  Args:
    metrics: `loss` and `grad_norm` [run, update], with the attributes `loss_unit` and `baseline`.
  Returns:
    The figure.
  """
  rows, line = _rows_and_line(metrics)
  columns, updates = _columns(metrics), metrics["update"].values
  loss, grad_norm = (
    metrics[name].transpose("run", "update").values.astype(float) for name in ("loss", "grad_norm")
  )
  unit, baseline = metrics.attrs["loss_unit"], metrics.attrs["baseline"]
  ceiling = _ceiling(loss, baseline)
  too_high = np.isfinite(loss) & (loss > ceiling)
  loss[too_high] = ceiling
  finite = loss[np.isfinite(loss) & (loss != 0)]
  wide = finite.size > 0 and 0 < 100 * finite.min() < finite.max()
  labels = [f"loss\n({unit})", "gradient norm\nbefore clipping"]
  scales = ["log" if wide else "linear", "log"]
  figure, panels = _panels(metrics, rows, "optimisation step", labels, scales)
  styles = _line_styles(metrics, line)
  block = math.ceil(len(updates) / MOST_POINTS)
  middles = look.spread_by_blocks(updates, block)[1]
  drawn, reasons = [], Counter[str]()
  for (*place, value), runs in _groups(metrics, [*rows, "depth", line]).items():
    axes, style, track = panels[tuple(place)], styles[value], list(styles).index(value)
    drawn.append(_largest(columns["truncation"], runs))
    pooled = [run in drawn[-1] for run in runs]
    for axis, values in zip(axes, (loss, grad_norm), strict=True):
      _, medians, _ = look.spread_by_blocks(values[runs], block)
      look.draw_curves(axis, middles, medians, pooled, style, _describe(line, value), track)
      zero = 0.0 if axis.get_yscale() == "log" else math.nan
      look.mark_edges(axis, updates, values[runs], style, track, zero=zero)
    for run in runs:
      _, _, peaks = look.spread_by_blocks(grad_norm[run], block)
      where = (peaks > columns["clip_norm"][run]) & np.isfinite(peaks)
      look.draw_points(axes[1], middles[where], peaks[where], style, CLIPPED, marker=".", ms=2.5)
      if columns["status"][run] == "diverged":
        step, reason = _divergence(metrics.isel(run=run))
        reasons[reason] += 1
        for axis, values in zip(axes, (loss, grad_norm), strict=True):
          look.draw_cross(axis, step, updates, values[run], style, "diverged")
  clip_norms = sorted(set(columns["clip_norm"]) - {math.inf})
  for panel, runs in _groups(metrics, [*rows, "depth"]).items():
    panels[panel][0].axhline(baseline, color="black", ls="-.", lw=1, label="baseline")
    for clip_norm in clip_norms:
      if any(columns["clip_norm"][run] == clip_norm for run in runs):
        panels[panel][1].axhline(clip_norm, color="black", ls="--", lw=1, label="clip norm")

  keys = [
    *_line_keys(line, styles),
    look.key("every run", lw=0.6, alpha=0.7),
    look.key(f"{_seeds(metrics, drawn)} with {_truncations(metrics, drawn)}", lw=1.6),
    look.key(f"baseline ({baseline:.3g} {unit})", color="black", ls="-."),
  ]
  if clip_norms:
    clips = ", ".join(f"{clip_norm:g}" for clip_norm in clip_norms)
    keys.append(look.key(f"clip norm ({clips})", color="black", ls="--"))
    peak = f"{CLIPPED} (largest norm of {block} steps)" if block > 1 else CLIPPED
    keys.append(look.key(peak, ls="none", marker=".", ms=4))
  if too_high.any():
    keys.append(look.key(f"losses above {ceiling:.3g} are drawn at {ceiling:.3g}", ls="none"))
  for reason, count in sorted(reasons.items()):
    label = f"diverged: {reason} ({count} run{'s' * (count > 1)})"
    keys.append(look.key(label, ls="none", marker="x", ms=7, mew=2))
  keys += _edge_keys(panels)
  lines = f"; lines are medians over {block} steps at a time" if block > 1 else ""
  look.annotate(figure, keys, f"Training on the task {metrics.attrs['task']!r}{lines}")
  return figure


def _columns(data: xr.Dataset) -> dict[str, list[Any]]:
  """The coordinates along `run` as Python values; NaN, which equals nothing, as None."""
  return {
    str(name): [None if value != value else value for value in column.values.tolist()]
    for name, column in data.coords.items()
    if column.dims == ("run",)
  }


def _order(value: Any) -> tuple[bool, Any]:
  return value is None, value


def _groups(data: xr.Dataset, names: Sequence[str]) -> dict[tuple[Any, ...], list[int]]:
  """The runs by their values of `names`, in order."""
  columns = _columns(data)
  groups: dict[tuple[Any, ...], list[int]] = {}
  for run in range(data.sizes["run"]):
    groups.setdefault(tuple(columns[name][run] for name in names), []).append(run)
  return dict(sorted(groups.items(), key=lambda item: [_order(value) for value in item[0]]))


def _varied(data: xr.Dataset) -> list[str]:
  """The settings with several values, a missing one not counted; most values first."""
  columns = _columns(data)
  counts = {
    name: len(set(values) - {None}) for name, values in columns.items() if name not in NOT_SETTINGS
  }
  return sorted((name for name in counts if counts[name] > 1), key=lambda name: -counts[name])


def _rows_and_line(data: xr.Dataset) -> tuple[list[str], str]:
  """What tells the rows of panels apart, and what the lines within one."""
  varied = _varied(data)
  return (["cell", *varied[1:]], varied[0]) if varied else ([], "cell")


def _line_styles(data: xr.Dataset, line: str) -> dict[Any, Style]:
  values = sorted(set(_columns(data)[line]), key=_order)
  return look.cell_styles(values) if line == "cell" else look.value_styles(values)


def _largest(column: Sequence[float], runs: Sequence[int]) -> list[int]:
  """Those of `runs` with the largest value in `column`, such as the longest truncation."""
  largest = max(column[run] for run in runs)
  return [run for run in runs if column[run] == largest]


def _describe(name: str, value: Any) -> str:
  """A value in words, such as "recurrent gain 1.5"."""
  words = name.replace("_", " ")
  if name == "cell":
    return str(value)
  if value is None:
    return f"no {words}"
  if value == math.inf:
    return {"truncation": "full BPTT", "clip_norm": "no clipping"}.get(name, f"{words} inf")
  return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def _seeds(data: xr.Dataset, drawn: Iterable[Sequence[int]]) -> str:
  """What was pooled, such as "median over 2 to 3 seeds"."""
  groups = list(drawn)
  sizes = sorted({len(runs) for runs in groups})
  if sizes[-1] == 1:
    return "one seed"
  status = _columns(data)["status"]
  apart = any(status[run] == "diverged" for runs in groups for run in runs)
  numbers = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
  return f"median over {numbers} seeds{', diverged ones apart' * apart}"


def _truncations(data: xr.Dataset, drawn: Iterable[Sequence[int]]) -> str:
  """The truncations of the runs that were drawn, such as "truncation 32 or full BPTT"."""
  truncations = _columns(data)["truncation"]
  lengths = sorted({truncations[run] for runs in drawn for run in runs})
  return " or ".join(_describe("truncation", length) for length in lengths)


def _bottom_layer(data: xr.Dataset, name: str) -> np.ndarray:
  """The variable `name` of layer 1, [run, step, time or lag]."""
  return data[name].sel(layer=1).transpose("run", "step", ...).values.astype(float)


def _latest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Of values [run, step, ...]: those at the last step, and the last of the runs that ended early.

  A step was measured if anything but NaN was recorded; runs without any such step are left out.
  """
  measured = ~np.isnan(values.reshape(*values.shape[:2], -1)).all(axis=-1)
  last = measured.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
  ended = measured[:, -1]
  early = measured.any(axis=1) & ~ended
  return values[ended, -1], values[early, last[early]]


def _draw_latest(
  axis: Axes, x: np.ndarray, profiles: np.ndarray, style: Style, label: str, track: int
) -> None:
  """Draws profiles [seeds, step, x] at the last step, and runs that ended before it one by one."""
  ended, early = _latest(profiles)
  if len(ended):
    look.draw_profiles(axis, x, ended, style, label, track)
  for profile in early:
    look.draw_profiles(axis, x, profile[None], style, f"{label}, {EARLY}", track, linestyle=":")


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
  if math.isnan(step):
    step = float(min((steps[0] for steps in broken.values() if steps.size), default=updates[-1]))
  firsts = {words: steps[steps >= step].min(initial=math.inf) for words, steps in broken.items()}
  first = min(firsts, key=lambda words: firsts[words])
  return step, f"{first} not finite" if firsts[first] < math.inf else "reason not recorded"


def _panels(
  data: xr.Dataset,
  rows: Sequence[str],
  x_label: str,
  y_labels: Sequence[str],
  y_scales: Sequence[str] = ("linear",),
) -> tuple[Figure, Panels]:
  """A figure with a row of panels per value of `rows` and a column per depth."""
  names, depths = list(_groups(data, rows)), sorted(set(_columns(data)["depth"]))
  places = [[(*name, depth) for depth in depths] for name in names]
  titles = [[", ".join(map(_describe, [*rows, "depth"], place)) for place in row] for row in places]
  figure, axes = look.grid(titles, x_label, y_labels, y_scales)
  return figure, dict(zip(itertools.chain(*places), itertools.chain(*axes), strict=True))


def _line_keys(line: str, styles: dict[Any, Style]) -> list[Artist]:
  return look.style_keys({_describe(line, value): style for value, style in styles.items()})


def _common_keys(panels: Panels, drawn: Iterable[Sequence[int]]) -> list[Artist]:
  """Legend keys for the band over seeds, the runs that ended early and the edge markers."""
  keys: list[Artist] = []
  if any(len(runs) > 1 for runs in drawn):
    keys.append(Patch(color=look.GREY, alpha=0.3, lw=0, label="minimum to maximum over seeds"))
  labels = {str(line.get_label()) for stack in panels.values() for line in stack[0].lines}
  if any(label.endswith(EARLY) for label in labels):
    keys.append(look.key(EARLY, ls=":", lw=1.5))
  return keys + _edge_keys(panels)


def _edge_keys(panels: Panels) -> list[Artist]:
  """Legend keys for the edge markers, for which this makes room."""
  keys = [key for axes in zip(*panels.values(), strict=True) for key in look.finish(axes)]
  return list({key.get_label(): key for key in keys}.values())
