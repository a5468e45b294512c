"""Functions that draw into panels: lines with bands over seeds, single runs, and edge markers.

An edge marker stands at the bottom edge of a panel where a value is an exact zero, and at the top
edge where it overflowed, since a logarithmic axis has no place for either. The edge markers of one
line form a row, its track; markers of lines with different tracks do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, LineCollection

from experiments.plotting.style import GRAY, OVERFLOW, ZERO, Style, key

# {name of a band: (what the line in it shows, what the band shows)}.
BANDS = {
  "minmax": ("median", "minimum to maximum over seeds"),
  "ci95": ("mean", "95 % confidence interval of the mean (t)"),
  "std": ("mean", "mean ± standard deviation over seeds"),
}
EDGE_MARKERS = {ZERO: "v", OVERFLOW: "^"}
TRACK_HEIGHT = 0.03  # height of one row of edge markers, as a fraction of the axis height
BEYOND = 1e4  # replaces an infinite log10 value at the edge of a band; far outside every axis range


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns minimum, median and maximum over the first axis.

  NaN values are ignored, infinities are not. The median of −inf and +inf is NaN.
  """
  ordered = np.sort(values, axis=0)  # NaN is sorted last
  count = np.maximum((~np.isnan(values)).sum(axis=0), 1)

  def rank(i: np.ndarray) -> np.ndarray:
    return np.take_along_axis(ordered, i[None], axis=0)[0]

  with np.errstate(invalid="ignore"):
    middle = (rank((count - 1) // 2) + rank(count // 2)) / 2
  return rank(np.zeros_like(count)), middle, rank(count - 1)


def interval(values: np.ndarray, band: str = "minmax") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the lower end of a band, its line, and its upper end, over the first axis.

  NaN values are ignored. A mean is infinite if one of its values is. Its interval is NaN then, and
  where there is a single value.

  Args:
    values: [seeds, ...].
    band: one of `BANDS`. `ci95` is the confidence interval of Student's t-distribution, and `std`
      is the sample standard deviation.
  """
  if band == "minmax":
    return spread(values)
  count = (~np.isnan(values)).sum(axis=0)
  with np.errstate(invalid="ignore", divide="ignore"):
    mean = np.where(np.isnan(values), 0, values).sum(axis=0) / count
    squares = np.where(np.isnan(values), 0, (values - mean) ** 2).sum(axis=0)
    width = np.sqrt(squares / (count - 1))
    if band == "ci95":
      from scipy import stats  # imported here because it takes half a second

      width = width / np.sqrt(count) * stats.t.ppf(0.975, count - 1)
    return mean - width, mean, mean + width


def spread_by_blocks(values: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns minimum, median and maximum of each block of consecutive positions of the last axis.

  Args:
    values: [..., positions].
    block: number of positions in a block; the last block may have fewer.
  Returns:
    Three arrays [..., blocks].
  """
  padding = [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % block)]
  padded = np.pad(values.astype(float), padding, constant_values=np.nan)
  return spread(np.moveaxis(padded.reshape(*values.shape[:-1], -1, block), -1, 0))


def draw_profiles(
  axis: Axes,
  x: np.ndarray,
  profiles: np.ndarray,
  style: Style,
  label: str,
  track: int = 0,
  linestyle: str | tuple[int, tuple[int, ...]] = "-",
  band: str = "minmax",
) -> None:
  """Draws the median or mean of `profiles` as a line, a band, and edge markers.

  Args:
    axis: the axis to draw on.
    x: positions along the horizontal axis, [x].
    profiles: log10 values [seeds, x]; −inf is an exact zero, NaN is not drawn.
    style: color, marker and width of the line.
    label: label of the line and its band.
    track: row of the line's edge markers, counted from the edge, from 0.
    linestyle: line style, in matplotlib's notation.
    band: what the line and its band show, one of `BANDS`.
  """
  low, middle, high = interval(profiles, band)
  finite = np.where(np.isfinite(middle), middle, np.nan)
  _draw_line(axis, x, finite, style, label, track, linestyle)
  if len(profiles) > 1:
    ends = np.clip((low, high), -BEYOND, BEYOND)
    there = ~np.isnan(low)
    area = FillBetweenPolyCollection(
      "x", x, *ends, where=there.tolist(), color=style.color, alpha=0.2, linewidth=0, label=label
    )
    axis.add_collection(area, autolim=False)
    for end in (low, high):
      finite = np.isfinite(end)
      axis.update_datalim(np.column_stack((x[finite], end[finite])))
  mark_edges(axis, x, profiles, style, track)


def draw_curves(
  axis: Axes,
  x: np.ndarray,
  curves: np.ndarray,
  pooled: Sequence[bool],
  style: Style,
  label: str,
  track: int,
) -> None:
  """Draws each of `curves` [runs, x] as a thin line, and a median as a thick line.

  The median is over the curves for which `pooled` is True. It ends where the shortest of these
  curves ends, because the median of the remaining curves would jump there.
  """
  log = axis.get_yscale() == "log"

  def drawable(y: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(y) & ((y > 0) | (not log)), y, np.nan)

  # Draw all curves as one collection: a sweep may have thousands of runs, and drawing as many
  # separate lines takes four times as long.
  points = np.stack(np.broadcast_arrays(x, drawable(curves)), axis=-1)
  thin: dict[str, Any] = {
    "color": style.color,
    "alpha": 0.5,
    "zorder": 1,
    "label": f"{label}, one run",
  }
  axis.add_collection(LineCollection(list(points), linewidths=0.6, **thin))
  axis.plot(*points[_alone(points[..., 1])].T, ls="none", marker=".", **thin)
  whole = ~np.isnan(curves[pooled]).any(axis=0)
  median = np.where(whole, spread(curves[pooled])[1], np.nan)
  _draw_line(axis, x, drawable(median), style, label, track)


def _draw_line(
  axis: Axes,
  x: np.ndarray,
  y: np.ndarray,
  style: Style,
  label: str,
  track: int,
  linestyle: str | tuple[int, tuple[int, ...]] = "-",
) -> None:
  """Draws y [x] as a line with about six markers, plus one at each y without finite neighbors."""
  stride = max(1, len(x) // 6)
  # Lines on different tracks have their markers at different positions.
  first = 2 * track * stride // 7 % stride
  axis.plot(
    x,
    y,
    color=style.color,
    linestyle=linestyle,
    linewidth=style.width,
    marker=style.marker,
    markersize=3.5,
    markevery=np.union1d(np.arange(first, len(x), stride), np.flatnonzero(_alone(y))),
    label=label,
  )


def _alone(y: np.ndarray) -> np.ndarray:
  """Returns a mask of the finite values that have no finite neighbor along the last axis.

  A line does not show these values.
  """
  there = np.pad(np.isfinite(y), [(0, 0)] * (y.ndim - 1) + [(1, 1)])
  return there[..., 1:-1] & ~there[..., :-2] & ~there[..., 2:]


def mark_cuts(axis: Axes, truncations: Sequence[float], last_lag: float) -> None:
  """Draws a vertical line for each truncation, between the last lag kept and the first cut off."""
  labels: list[tuple[float, str]] = []
  for truncation in truncations:
    cut = truncation - 0.5
    axis.axvline(cut, color=GRAY, ls=":", lw=0.9, zorder=1, label=f"cut {truncation:g}")
    if labels and cut - labels[-1][0] < 0.06 * last_lag:  # otherwise the two labels overlap
      labels[-1] = (cut, f"{labels[-1][1]}, {truncation:g}")
    else:
      labels.append((cut, f"{truncation:g}"))
  top = axis.secondary_xaxis("top")
  top.set_xticks([cut for cut, _ in labels], [text for _, text in labels])
  top.tick_params(length=0, pad=1, labelcolor=GRAY)
  top.spines["top"].set_visible(False)


def mark_edges(
  axis: Axes, x: np.ndarray, values: np.ndarray, style: Style, track: int, zero: float = -np.inf
) -> None:
  """Draws an edge marker at each x where any run's value is `zero`, or where any is +inf.

  Args:
    axis: the axis to draw on.
    x: positions along the horizontal axis, [x].
    values: [runs, x].
    style: style of the line, whose color the markers get.
    track: row of the markers, counted from the edge, from 0.
    zero: the value that stands for an exact zero, −inf for log10 values.
  """
  inset = TRACK_HEIGHT * (track + 0.6)
  for label, hits, height in (
    (ZERO, values == zero, inset),
    (OVERFLOW, values == np.inf, 1 - inset),
  ):
    where = hits.any(axis=0)
    if where.any():
      draw_points(
        axis,
        x[where],
        np.full(where.sum(), height),
        style,
        label,
        marker=EDGE_MARKERS[label],
        ms=3,
        transform=axis.get_xaxis_transform(),
      )


def draw_points(
  axis: Axes, x: np.ndarray, y: np.ndarray, style: Style, label: str, **options: Any
) -> None:
  """Draws a marker at each (x, y), without a line; `options` are those of `Axes.plot`."""
  axis.plot(x, y, color=style.color, linestyle="none", label=label, **options)


def draw_cross(
  axis: Axes, at: float, x: np.ndarray, curve: np.ndarray, style: Style, label: str
) -> None:
  """Draws a cross at x = `at`, at the height of the last value of `curve` [x] up to there.

  Values that the axis cannot show are skipped. If no value is left, the cross is near the top.
  """
  floor = 0.0 if axis.get_yscale() == "log" else -np.inf
  seen = curve[(x <= at) & np.isfinite(curve) & (curve > floor)]
  options: dict[str, Any] = {"marker": "x", "ms": 7, "mew": 2, "zorder": 5}
  if not seen.size:
    options["transform"] = axis.get_xaxis_transform()
  height = seen[-1:] if seen.size else np.array([0.95])
  draw_points(axis, np.array([at]), height, style, label, **options)


def finish(axes: Sequence[Axes]) -> list[Artist]:
  """Makes room for edge markers on axes that share y, and returns the markers' legend keys.

  If no axis shows a finite value, the axes get no ticks, because their scale would be arbitrary.
  """
  drawn = set()
  inset = 0.0
  for line in (line for axis in axes for line in axis.lines):
    label = str(line.get_label())
    if label in EDGE_MARKERS:
      heights = np.asarray(line.get_ydata(), float)
      inset = max(inset, np.minimum(heights, 1 - heights).max())
      drawn.add(label)
  scaled = any(np.isfinite(axis.dataLim.intervaly).all() for axis in axes)
  for axis in axes:
    axis.margins(y=0.05 + 1.5 * inset)
    if not scaled:
      axis.set_yticks([])
    if not axis.lines:
      small = matplotlib.rcParams["legend.fontsize"]
      axis.text(0.5, 0.5, "no runs", transform=axis.transAxes, ha="center", fontsize=small)
  return [key(label, ls="none", marker=EDGE_MARKERS[label], ms=4) for label in sorted(drawn)]
