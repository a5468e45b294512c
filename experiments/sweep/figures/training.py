"""The figure of a sweep's training: loss and gradient norm against the optimization step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plotting import style as plot_style
from experiments.plotting.lines import (
  draw_cross,
  draw_curves,
  draw_points,
  draw_profiles,
  mark_edges,
  spread,
  spread_by_blocks,
)
from experiments.plotting.style import Style
from experiments.sweep.figures.panels import (
  DASHED,
  DEFAULT,
  Look,
  Panels,
  choose_rows,
  describe,
  describe_seeds,
  describe_truncations,
  edge_keys,
  group_runs,
  line_keys,
  line_styles,
  make_panels,
  rows_and_line,
  run_columns,
  with_largest,
)

CLIPPED = "clipped"
# The largest number of points of a curve. Longer curves are drawn as medians over blocks of steps.
MAX_POINTS = 100


class _Curves(NamedTuple):
  """The curves of all runs, prepared for drawing.

  Attributes:
    updates: optimization steps.
    middles: the middle step of each block of steps.
    loss: training losses, with values above `ceiling` replaced by `ceiling`.
    grad_norm: gradient norms before clipping.
    clipped: above 0 at the steps where gradients were clipped.
    held_out: losses on held-out data, capped like `loss`; NaN at the steps without an evaluation.
    ceiling: the loss above which a run would flatten the curves of other runs on a shared axis.
    has_capped: whether a loss was above `ceiling`.
    block: number of steps in a block, which is drawn as one point.
  """

  updates: Integer[np.ndarray, " update"]
  middles: Float[np.ndarray, " block"]
  loss: Float[np.ndarray, "run update"]
  grad_norm: Float[np.ndarray, "run update"]
  clipped: Float[np.ndarray, "run update"]
  held_out: Float[np.ndarray, "run update"]
  ceiling: float
  has_capped: bool
  block: int

  @property
  def loss_scale(self) -> str:
    """Returns the scale of the loss axis: `log` if the losses span more than a factor of 100."""
    finite = self.loss[np.isfinite(self.loss) & (self.loss != 0)]
    is_wide = finite.size > 0 and 0 < 100 * finite.min() < finite.max()
    return "log" if is_wide else "linear"


def training(metrics: xr.Dataset, look: Look = DEFAULT) -> Figure:
  """Draws the loss, and the gradient norm before clipping, against the optimization step.

  Every run is a thin line, with dots where gradients were clipped and a cross where the run
  diverged. Thick lines are medians over the seeds of the runs with the longest truncation; dashed
  lines are medians of the loss on held-out data, if it was recorded. Panels and lines are grouped
  as in `gradient_decay`.

  Args:
    metrics: dataset with `loss`, `grad_norm`, `clipped` and perhaps `held_out_loss` [run, update],
      and with the attributes `task`, `loss_unit` and `baseline`. If it has a coordinate `baseline`
      of `run`, this is used in place of the attribute.
    look: what the user chose about the figure; its band is not used, as every run is drawn.
  Returns:
    The figure.
  """
  rows, line = rows_and_line(metrics, look.facet)
  metrics, chosen = choose_rows(metrics, rows, stack=2)
  columns, curves = run_columns(metrics), _curves(metrics)
  labels = [f"loss\n({metrics.attrs['loss_unit']})", "gradient norm\nbefore clipping"]
  scales = [curves.loss_scale, "log"]
  figure, panels = make_panels(metrics, rows, "optimization step", labels, scales, look.width)
  styles = line_styles(metrics, line)
  drawn, reasons = [], Counter[str]()
  for (*place, value), runs in group_runs(metrics, [*rows, "depth", line]).items():
    axes, style, track = panels[tuple(place)], styles[value], list(styles).index(value)
    longest = with_largest(columns["truncation"], runs)
    drawn.append(longest)
    _draw_group(axes, curves, runs, frozenset(longest), style, describe(line, value), track)
    _draw_clipped(axes[1], curves, runs, style)
    for run in runs:
      if columns["status"][run] == "diverged":
        step, reason = _divergence(metrics.isel(run=run))
        reasons[reason] += 1
        for axis, values in zip(axes, (curves.loss, curves.grad_norm), strict=True):
          draw_cross(axis, step, curves.updates, values[run], style, "diverged")
  clip_norms = _draw_references(metrics, panels, rows)

  pooled = f"{describe_seeds(metrics, drawn)} with {describe_truncations(metrics, drawn)}"
  keys = [
    *line_keys(line, styles),
    plot_style.key("every run", lw=0.6, alpha=0.7),
    plot_style.key(pooled, lw=1.6),
    *_held_out_keys(curves),
    *_reference_keys(metrics, clip_norms),
  ]
  if set(columns["clip_norm"]) - {math.inf}:
    keys.append(_clipped_key(curves.block))
  if curves.has_capped:
    text = f"losses above {curves.ceiling:.3g} are drawn at {curves.ceiling:.3g}"
    keys.append(plot_style.key(text, ls="none"))
  keys += [*_divergence_keys(reasons), *edge_keys(panels)]
  lines = f"; lines are medians over {curves.block} steps at a time" if curves.block > 1 else ""
  plot_style.annotate(
    figure, keys, f"Training on the task {metrics.attrs['task']!r}{lines}{chosen}"
  )
  return figure


def _curves(metrics: xr.Dataset) -> _Curves:
  loss, grad_norm, clipped = (
    metrics[name].transpose("run", "update").values.astype(float)
    for name in ("loss", "grad_norm", "clipped")
  )
  held_out = np.full_like(loss, np.nan)
  if "held_out_loss" in metrics:
    held_out = metrics["held_out_loss"].transpose("run", "update").values.astype(float)
  updates = metrics["update"].values
  ceiling = _ceiling(loss, _baselines(metrics))
  too_high = np.isfinite(loss) & (loss > ceiling)
  loss[too_high] = ceiling
  held_out[np.isfinite(held_out) & (held_out > ceiling)] = ceiling
  block = math.ceil(len(updates) / MAX_POINTS)
  middles = spread_by_blocks(updates, block)[1]
  has_capped = bool(too_high.any())
  return _Curves(updates, middles, loss, grad_norm, clipped, held_out, ceiling, has_capped, block)


def _baselines(metrics: xr.Dataset) -> list[float]:
  """Returns the baseline of each run; NaN if there is none."""
  column = run_columns(metrics).get("baseline", [metrics.attrs["baseline"]] * metrics.sizes["run"])
  return [math.nan if value is None else float(value) for value in column]


def _ceiling(loss: Float[np.ndarray, "run update"], baselines: Sequence[float]) -> float:
  """Returns the loss above which a diverging run would flatten other runs' curves on an axis.

  This ceiling is twice the median of the runs' first losses, or twice the largest baseline if that
  is larger. It is inf if any loss is negative or no first loss is finite.
  """
  first = loss[:, 0][np.isfinite(loss[:, 0])]
  if not first.size or (loss < 0).any():
    return math.inf
  return 2 * max(float(np.median(first)), *np.nan_to_num(baselines).tolist())


def _draw_group(
  axes: Sequence[Axes],
  curves: _Curves,
  runs: Sequence[int],
  longest: Container[int],
  style: Style,
  label: str,
  track: int,
) -> None:
  """Draws the loss and the gradient norm of each of `runs`, and their medians over `longest`.

  `longest` holds those of `runs` that have the longest truncation.
  """
  pooled = [run in longest for run in runs]
  held_out = curves.held_out[runs][pooled]
  evaluated = ~np.isnan(held_out).any(axis=0)
  if evaluated.any():
    median, at = spread(held_out[:, evaluated])[1], curves.updates[evaluated]
    draw_profiles(axes[0], at, median[None], style, f"{label}, held out", track, DASHED)
  for axis, values in zip(axes, (curves.loss, curves.grad_norm), strict=True):
    _, medians, _ = spread_by_blocks(values[runs], curves.block)
    draw_curves(axis, curves.middles, medians, pooled, style, label, track)
    zero = 0.0 if axis.get_yscale() == "log" else math.nan
    mark_edges(axis, curves.updates, values[runs], style, track, zero=zero)


def _draw_clipped(axis: Axes, curves: _Curves, runs: Sequence[int], style: Style) -> None:
  """Draws a dot for each run and block of steps, at the largest gradient norm clipped in it."""
  norms = np.where(curves.clipped[runs] > 0, curves.grad_norm[runs], np.nan)
  _, _, peaks = spread_by_blocks(norms, curves.block)
  run, block = np.nonzero(np.isfinite(peaks))
  draw_points(axis, curves.middles[block], peaks[run, block], style, CLIPPED, marker=".", ms=2.5)


def _draw_references(metrics: xr.Dataset, panels: Panels, rows: Sequence[str]) -> list[float]:
  """Draws the baseline and the clip norms as horizontal lines; returns the clip norms."""
  columns = run_columns(metrics)
  # `clip_norm` limits the gradient norm that is drawn only if `clip_by` is `global_norm`.
  limits = [
    limit if clip_by == "global_norm" else math.inf
    for limit, clip_by in zip(columns["clip_norm"], columns["clip_by"], strict=True)
  ]
  clip_norms, baselines = sorted(set(limits) - {math.inf}), _baselines(metrics)
  for panel, runs in group_runs(metrics, [*rows, "depth"]).items():
    for baseline in sorted({baselines[run] for run in runs if not math.isnan(baselines[run])}):
      panels[panel][0].axhline(baseline, color="black", ls="-.", lw=1, label="baseline")
    for clip_norm in clip_norms:
      if any(limits[run] == clip_norm for run in runs):
        panels[panel][1].axhline(clip_norm, color="black", ls="--", lw=1, label="clip norm")
  return clip_norms


def _reference_keys(metrics: xr.Dataset, clip_norms: Sequence[float]) -> list[Artist]:
  """Returns the legend keys of the baseline and of the clip norms."""
  known = sorted({value for value in _baselines(metrics) if not math.isnan(value)})
  values = ", ".join(f"{value:.3g}" for value in known)
  keys: list[Artist] = []
  if known:
    label = f"baseline ({values} {metrics.attrs['loss_unit']})"
    keys.append(plot_style.key(label, color="black", ls="-."))
  if clip_norms:
    clips = ", ".join(f"{clip_norm:g}" for clip_norm in clip_norms)
    keys.append(plot_style.key(f"clip norm ({clips})", color="black", ls="--"))
  return keys


def _held_out_keys(curves: _Curves) -> list[Artist]:
  """Returns the legend key of the losses on held-out data, if there are any."""
  if np.isnan(curves.held_out).all():
    return []
  return [plot_style.key("held-out loss (median)", ls=DASHED, lw=1.6)]


def _clipped_key(block: int) -> Artist:
  label = f"{CLIPPED} (largest norm of {block} steps)" if block > 1 else CLIPPED
  return plot_style.key(label, ls="none", marker=".", ms=4)


def _divergence_keys(reasons: Mapping[str, int]) -> list[Artist]:
  """Returns a legend key for each reason of divergence, with the number of runs.

  Args:
    reasons: {reason: number of runs that diverged for this reason}.
  """
  keys: list[Artist] = []
  for reason, count in sorted(reasons.items()):
    label = f"diverged: {reason} ({count} run{'s' * (count > 1)})"
    keys.append(plot_style.key(label, ls="none", marker="x", ms=7, mew=2))
  return keys


def _divergence(run: xr.Dataset) -> tuple[float, str]:
  """Returns (the step at which a run diverged, text that says what became non-finite first)."""
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
