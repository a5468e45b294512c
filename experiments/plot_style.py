"""How the figures look: one style per cell, bands over seeds, zeros and overflows at the edges."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

ZERO = "0 (an example's norm is below 1e-38)"
OVERFLOW = "overflow (inf)"
ABSENT = "not measured"
EDGE_MARKERS = {ZERO: "v", OVERFLOW: "^"}
GREY = "#555555"
SMALL, MEDIUM = 8.0, 9.0  # points: ticks and legends; titles and axis labels
WIDTH = 6.8  # inches, at least: the text of a page
TRACK_HEIGHT = 0.03  # of an axis: one row of markers along its edge
BEYOND = 1e4  # where a band towards an infinite log10 value ends: off every axis


class Style(NamedTuple):
  """Colour, marker and line width in points: enough to tell lines apart in grey too."""

  colour: str
  marker: str
  width: float


# The palette of Okabe and Ito, safe for the colour-blind.
CELL_STYLES = {
  "elman": Style("#E69F00", "o", 1.2),
  "gru": Style("#009E73", "s", 1.6),
  "lstm": Style("#0072B2", "D", 2.0),
}
OTHER_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#000000")
OTHER_MARKERS = ("P", "*", "p", "h", "X")
VALUE_MARKERS = ("o", "s", "D", "P", "*", "p", "h")


def cell_styles(cells: Iterable[str]) -> dict[str, Style]:
  """A style for every cell: those of `CELL_STYLES` by name, the others by alphabetical order."""
  cells = sorted(set(cells))
  others = [cell for cell in cells if cell not in CELL_STYLES]
  styles = dict(CELL_STYLES)
  for i, cell in enumerate(others):
    colour = OTHER_COLOURS[i % len(OTHER_COLOURS)]
    styles[cell] = Style(colour, OTHER_MARKERS[i % len(OTHER_MARKERS)], 1.6)
  return {cell: styles[cell] for cell in cells}


def value_styles(values: Sequence[Any]) -> dict[Any, Style]:
  """A style for every value of an ordered setting, from light to dark."""
  shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.0, max(len(values), 2)))
  return {
    value: Style(to_hex(shades[i]), VALUE_MARKERS[i % len(VALUE_MARKERS)], 1.5)
    for i, value in enumerate(values)
  }


def grid(
  titles: Sequence[Sequence[str]],
  x_label: str,
  y_labels: Sequence[str],
  y_scales: Sequence[str] = ("linear",),
) -> tuple[Figure, list[list[list[Axes]]]]:
  """Panels in rows and columns, each a stack of one axis per `y_labels`; all share their axes.

  Returns:
    The figure, and its axes by row, column and place in the stack.
  """
  rows, columns, stack = len(titles), len(titles[0]), len(y_labels)
  size = (max(WIDTH, 3.4 * columns), 2.1 * rows * stack + 0.3 * rows + 0.4)
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(rows * stack, columns, sharex=True, squeeze=False)
  for i, places in enumerate(axes):
    place = i % stack
    for j, axis in enumerate(places):
      if axis is not axes[place, 0]:
        axis.sharey(axes[place, 0])
      axis.set_yscale(y_scales[place])
      if place == 0:
        axis.set_title(_wrap(titles[i // stack][j], size[0] / columns - 0.6), fontsize=MEDIUM)
      axis.set_xlabel(x_label, fontsize=MEDIUM)
      axis.set_ylabel(y_labels[place], fontsize=MEDIUM)
      axis.tick_params(labelsize=SMALL, which="both")
      axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
      axis.spines[["top", "right"]].set_visible(False)
      axis.label_outer()
  return figure, [
    [list(axes[i * stack : (i + 1) * stack, j]) for j in range(columns)] for i in range(rows)
  ]


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Minimum, median and maximum over the first axis.

  NaN is absent; infinities count as the values that they are. The median of −inf and +inf is NaN.
  """
  ordered = np.sort(values, axis=0)  # NaN comes last
  count = np.maximum((~np.isnan(values)).sum(axis=0), 1)

  def rank(i: np.ndarray) -> np.ndarray:
    return np.take_along_axis(ordered, i[None], axis=0)[0]

  with np.errstate(invalid="ignore"):
    middle = (rank((count - 1) // 2) + rank(count // 2)) / 2
  return rank(np.zeros_like(count)), middle, rank(count - 1)


def spread_by_blocks(values: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Minimum, median and maximum of every `block` positions along the last axis."""
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
  linestyle: Any = "-",
) -> None:
  """Draws the median line of `profiles`, the band from minimum to maximum, and the edges.

  Args:
    axis: where to draw.
    x: positions [x].
    profiles: log10 values [seeds, x]; −inf is an exact zero, NaN is absent.
    style: of the line.
    label: of the line and its band, for those who read the artists.
    track: the row, counted from the edge, of the markers for zeros and overflows.
    linestyle: of the line.
  """
  low, middle, high = spread(profiles)
  finite = np.where(np.isfinite(middle), middle, np.nan)
  _draw_line(axis, x, finite, style, label, track, linestyle)
  if len(profiles) > 1:
    ends = np.clip((low, high), -BEYOND, BEYOND)
    there = ~np.isnan(low)
    band = FillBetweenPolyCollection(
      "x", x, *ends, where=there.tolist(), color=style.colour, alpha=0.2, linewidth=0, label=label
    )
    axis.add_collection(band, autolim=False)
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
  """Draws each of `curves` [runs, x] as a thin line and the median of the pooled ones thick.

  The median ends where the first of them does: those that are left would say something else.
  """
  log = axis.get_yscale() == "log"

  def drawable(y: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(y) & ((y > 0) | (not log)), y, np.nan)

  for curve in curves:
    y = drawable(curve)
    thin = axis.plot(x, y, color=style.colour, label=f"{label}, one run", markevery=_alone(y))
    thin[0].set(lw=0.6, alpha=0.5, zorder=1, marker=".")
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
  linestyle: Any = "-",
) -> None:
  stride = max(1, len(x) // 6)
  first = 2 * track * stride // 7 % stride  # lines that coincide take turns
  axis.plot(
    x,
    y,
    color=style.colour,
    linestyle=linestyle,
    linewidth=style.width,
    marker=style.marker,
    markersize=3.5,
    markevery=np.union1d(np.arange(first, len(x), stride), _alone(y)),
    label=label,
  )


def _alone(y: np.ndarray) -> np.ndarray:
  """Where a value has no neighbour, so that its marker is all there is to see."""
  there = np.pad(np.isfinite(y), 1)
  return np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])


def mark_cuts(axis: Axes, truncations: Sequence[float], last_lag: float) -> None:
  """Marks, for every truncation, the cut between the last lag that it keeps and the next."""
  labels: list[tuple[float, str]] = []
  for truncation in truncations:
    cut = truncation - 0.5
    axis.axvline(cut, color=GREY, ls=":", lw=0.9, zorder=1, label=f"cut {truncation:g}")
    if labels and cut - labels[-1][0] < 0.06 * last_lag:  # two labels would collide
      labels[-1] = (cut, f"{labels[-1][1]}, {truncation:g}")
    else:
      labels.append((cut, f"{truncation:g}"))
  top = axis.secondary_xaxis("top")
  top.set_xticks([cut for cut, _ in labels], [text for _, text in labels])
  top.tick_params(length=0, pad=1, labelsize=SMALL, labelcolor=GREY)
  top.spines["top"].set_visible(False)


def mark_edges(
  axis: Axes, x: np.ndarray, values: np.ndarray, style: Style, track: int, zero: float = -np.inf
) -> None:
  """Marks along the edges of the axis where any of `values` [runs, x] is `zero` or overflowed."""
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
  """Draws markers without a line."""
  axis.plot(x, y, color=style.colour, linestyle="none", label=label, **options)


def draw_cross(
  axis: Axes, at: float, x: np.ndarray, curve: np.ndarray, style: Style, label: str
) -> None:
  """Draws a cross at `at`, as high as the last value of `curve` that can be drawn until there."""
  floor = 0.0 if axis.get_yscale() == "log" else -np.inf
  seen = curve[(x <= at) & np.isfinite(curve) & (curve > floor)]
  options: dict[str, Any] = {"marker": "x", "ms": 7, "mew": 2, "zorder": 5}
  if not seen.size:
    options["transform"] = axis.get_xaxis_transform()
  height = seen[-1:] if seen.size else np.array([0.95])
  draw_points(axis, np.array([at]), height, style, label, **options)


def heat_maps(
  maps: Sequence[Sequence[tuple[str, np.ndarray]]], times: np.ndarray, x_label: str, label: str
) -> tuple[Figure, list[Artist]]:
  """One panel per title and log10 values [layer, time], in rows, with one colour scale for all.

  Returns:
    The figure, and legend keys for the values that are off the scale.
  """
  images = [image for row in maps for _, image in row]
  flat = np.concatenate([image.ravel() for image in images])
  finite = flat[np.isfinite(flat)]
  low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 0.0)
  high = max(high, low + 1e-3)
  # Below the scale is black and above it white, so the order is the same without colours.
  shades = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.15, 1, 256)))
  cmap = shades.with_extremes(under="black", over="white", bad=(0, 0, 0, 0))
  layers = [row[0][1].shape[0] for row in maps]
  columns = len(maps[0])
  width = max(WIDTH, 3.4 * columns)
  titles = [_wrap(title, width / columns - 0.9) for row in maps for title, _ in row]
  margin = 0.3 + 0.16 * max(title.count("\n") + 1 for title in titles)
  size = (width, sum(margin + 0.3 * n for n in layers) + 0.7)
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(len(maps), columns, sharex=True, squeeze=False, height_ratios=layers)
  for axis, title, image in zip(axes.flat, titles, images, strict=True):
    axis.patch.set(hatch="xxxx", facecolor="white", edgecolor="0.7")  # shows where NaN
    picture = axis.imshow(
      np.clip(image, low - 1, high + 1),  # matplotlib takes infinities for absent
      norm=Normalize(low, high),
      cmap=cmap,
      aspect="auto",
      interpolation="nearest",
      origin="lower",
      extent=(times[0] - 0.5, times[-1] + 0.5, 0.5, len(image) + 0.5),
    )
    axis.set_title(title, fontsize=MEDIUM)
    axis.set_yticks(range(1, len(image) + 1))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel(x_label, fontsize=MEDIUM)
    axis.set_ylabel("layer", fontsize=MEDIUM)
    axis.tick_params(labelsize=SMALL)
    axis.label_outer()
  bar = figure.colorbar(picture, ax=axes, aspect=5 * size[1])
  bar.set_label(label, fontsize=MEDIUM)
  bar.ax.tick_params(labelsize=SMALL)
  keys = [
    (flat == -np.inf, Patch(facecolor="black", edgecolor="0.6", label=ZERO)),
    (flat == np.inf, Patch(facecolor="white", edgecolor="0.6", label=OVERFLOW)),
    (np.isnan(flat), Patch(facecolor="white", edgecolor="0.6", hatch="xxxx", label=ABSENT)),
  ]
  return figure, [patch for where, patch in keys if where.any()]


def finish(axes: Sequence[Axes]) -> list[Artist]:
  """Makes room for the edge markers on axes that share y, and returns their legend keys.

  An axis without any finite value loses its scale, which would mean nothing.
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
      axis.text(0.5, 0.5, "no runs", transform=axis.transAxes, ha="center", fontsize=SMALL)
  return [key(label, ls="none", marker=EDGE_MARKERS[label], ms=4) for label in sorted(drawn)]


def key(label: str, **options: Any) -> Line2D:
  """A legend key, grey unless the options say otherwise."""
  return Line2D([], [], label=label, **{"color": GREY, **options})


def style_keys(styles: dict[str, Style]) -> list[Artist]:
  """One legend key per label."""
  return [
    key(label, color=style.colour, lw=style.width, marker=style.marker, ms=3.5)
    for label, style in styles.items()
  ]


def annotate(figure: Figure, keys: Sequence[Artist], caption: str) -> None:
  """Puts the caption above all panels and the legend below, where neither covers data."""
  width, height = figure.get_size_inches()
  figure.suptitle(_wrap(caption, width), fontsize=MEDIUM)
  if not keys:
    return
  longest = max(len(str(key.get_label())) for key in keys)
  columns = max(1, int(width / (0.7 + 0.06 * longest)))
  figure.set_figheight(height + 0.1 + 0.18 * math.ceil(len(keys) / columns))
  figure.legend(
    handles=list(keys), loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False
  )


def _wrap(text: str, width: float) -> str:
  """Breaks lines of title size after about `width` inches, at commas and semicolons."""
  tied = re.sub("(?<![,;]) ", "\N{NO-BREAK SPACE}", text)
  lines = [
    textwrap.fill(line, int(13 * width), break_long_words=False) for line in tied.split("\n")
  ]
  return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
  """Writes `figure` as .png and .svg, the same bytes for the same figure; returns the paths.

  While it writes the .svg it sets a parameter of matplotlib, which all threads share.
  """
  folder.mkdir(parents=True, exist_ok=True)
  png, svg = folder / f"{name}.png", folder / f"{name}.svg"
  figure.savefig(png, dpi=150, metadata={"Software": None})
  # Left alone, an SVG holds the date, and ids that are drawn at random.
  with matplotlib.rc_context({"svg.hashsalt": "rnn_jax"}):
    figure.savefig(svg, dpi=150, metadata={"Date": None})
  return [png, svg]
