"""Appearance of figures: line styles, grids of panels, heat maps, legends, and image files."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.runtime import files

# Figures depend on the records alone. A user's matplotlibrc may request fonts or LaTeX, which may
# not be installed.
matplotlib.rcdefaults()

ZERO = "0 (an example's norm is below 1e-38)"
OVERFLOW = "out of range (inf)"
ABSENT = "not measured"
GRAY = "#555555"
# Font sizes in points: SMALL for ticks and legends, MEDIUM for titles and axis labels.
SMALL, MEDIUM = 8.0, 9.0
WIDTH = 6.8  # minimum width in inches: the text width of a page


class Style(NamedTuple):
  """The color, marker and width (in points) of a line; markers tell lines apart in grayscale."""

  color: str
  marker: str
  width: float


# The colors of these two constants are from the palette of Okabe and Ito, which color-blind readers
# can tell apart.
CELL_STYLES = {
  "elman": Style("#E69F00", "o", 1.2),
  "gru": Style("#009E73", "s", 1.6),
  "lstm": Style("#0072B2", "D", 2.0),
}
OTHER_COLORS = ("#CC79A7", "#56B4E9", "#D55E00", "#000000")
OTHER_MARKERS = ("P", "*", "p", "h", "X")
VALUE_MARKERS = ("o", "s", "D", "P", "*", "p", "h")


def cell_styles(cells: Iterable[str]) -> dict[str, Style]:
  """Returns a style for each cell: from `CELL_STYLES`, or assigned in alphabetical order.

  A cell is a name, which may be followed by options, as in `elman activation=relu`. It uses the
  entry of `CELL_STYLES` for its name. If there is none, or if several of `cells` share the name, a
  style is assigned.
  """
  names = {cell: cell.split(" ")[0] for cell in cells}
  count = Counter(names.values())
  known = [cell for cell in names if names[cell] in CELL_STYLES and count[names[cell]] == 1]
  others = sorted(set(names) - set(known))
  colors = list(OTHER_COLORS)
  if len(others) > len(colors):
    shades = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(others)))
    colors = [to_hex(shade) for shade in shades]
  styles = {cell: CELL_STYLES[names[cell]] for cell in known}
  for i, cell in enumerate(others):
    styles[cell] = Style(colors[i], OTHER_MARKERS[i % len(OTHER_MARKERS)], 1.6)
  return {cell: styles[cell] for cell in names}


def value_styles(values: Sequence[Any]) -> dict[Any, Style]:
  """Returns a style for each of a setting's values, in order; colors go from light to dark."""
  shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.0, max(len(values), 2)))
  return {
    value: Style(to_hex(shades[i]), VALUE_MARKERS[i % len(VALUE_MARKERS)], 1.5)
    for i, value in enumerate(values)
  }


def grid(
  titles: Sequence[Sequence[str]],
  x_label: str,
  y_labels: Sequence[str],
  y_scales: Sequence[str] | None = None,
) -> tuple[Figure, list[list[list[Axes]]]]:
  """Returns a figure with a grid of panels, each of which is a stack of axes.

  All axes share x. Axes at the same position of their stacks share y.

  Args:
    titles: title of each panel, by row and column.
    x_label: label of the horizontal axes.
    y_labels: labels of the vertical axes of a stack, one per axis, from the top down.
    y_scales: scales of those axes, as for `Axes.set_yscale`; linear if None.
  Returns:
    The figure, and its axes by row, column and position in the stack.
  """
  rows, columns, stack = len(titles), len(titles[0]), len(y_labels)
  height = 2.1 if stack <= 3 else 1.1  # inches per axis; a tall stack must fit on a page
  size = (max(WIDTH, 3.4 * columns), height * rows * stack + 0.3 * rows + 0.4)
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(rows * stack, columns, sharex=True, squeeze=False)
  for i, row in enumerate(axes):
    place = i % stack
    for j, axis in enumerate(row):
      if axis is not axes[place, 0]:
        axis.sharey(axes[place, 0])
      axis.set_yscale(y_scales[place] if y_scales else "linear")
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


def heat_maps(
  maps: Sequence[Sequence[tuple[str, np.ndarray]]],
  times: np.ndarray,
  x_label: str,
  label: str,
  names: Sequence[str] | None = None,
) -> tuple[Figure, list[Artist]]:
  """Returns a figure of heat maps on one color scale, and legend keys for values off that scale.

  Args:
    maps: title and log10 values [layer, time] of each panel, by row and column.
    times: positions along the time axis.
    x_label: label of the time axis.
    label: label of the color scale.
    names: names of the values' rows, from the bottom up; if None, the rows are numbered as layers.
  """
  images = [image for row in maps for _, image in row]
  flat = np.concatenate([image.ravel() for image in images])
  finite = flat[np.isfinite(flat)]
  low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 0.0)
  high = max(high, low + 1e-3)
  layers = [row[0][1].shape[0] for row in maps]
  columns = len(maps[0])
  width = max(WIDTH, 3.4 * columns)
  titles = [_wrap(title, width / columns - 0.9) for row in maps for title, _ in row]
  margin = 0.3 + 0.16 * max(title.count("\n") + 1 for title in titles)
  size = (width, sum(margin + (0.3 if names is None else 0.2) * n for n in layers) + 0.7)
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(len(maps), columns, sharex=True, squeeze=False, height_ratios=layers)
  for axis, title, image in zip(axes.flat, titles, images, strict=True):
    picture = _draw_map(axis, image, times, low, high)
    axis.set_title(title, fontsize=MEDIUM)
    axis.set_yticks(range(1, len(image) + 1), names)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel(x_label, fontsize=MEDIUM)
    if names is None:
      axis.set_ylabel("layer", fontsize=MEDIUM)
    axis.tick_params(labelsize=SMALL)
    axis.label_outer()
  bar = figure.colorbar(picture, ax=axes, aspect=5 * size[1])
  bar.set_label(label, fontsize=MEDIUM)
  bar.ax.tick_params(labelsize=SMALL)
  return figure, _off_scale_keys(flat)


def _draw_map(
  axis: Axes, image: np.ndarray, times: np.ndarray, low: float, high: float
) -> AxesImage:
  """Draws log10 values [layer, time] on a color scale from `low` to `high`."""
  # Values below the scale are black and values above it white, which keeps the order in grayscale.
  shades = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.15, 1, 256)))
  # The background, which is visible where values are NaN, is hatched.
  axis.patch.set(hatch="xxxx", facecolor="white", edgecolor="0.7")
  return axis.imshow(
    np.clip(image, low - 1, high + 1),  # matplotlib does not draw infinities
    norm=Normalize(low, high),
    cmap=shades.with_extremes(under="black", over="white", bad=(0, 0, 0, 0)),
    aspect="auto",
    interpolation="nearest",
    origin="lower",
    extent=(times[0] - 0.5, times[-1] + 0.5, 0.5, len(image) + 0.5),
  )


def _off_scale_keys(values: np.ndarray) -> list[Artist]:
  """Returns legend keys for those of zero, overflow and NaN that occur in the log10 `values`."""
  keys = [
    (values == -np.inf, Patch(facecolor="black", edgecolor="0.6", label=ZERO)),
    (values == np.inf, Patch(facecolor="white", edgecolor="0.6", label=OVERFLOW)),
    (np.isnan(values), Patch(facecolor="white", edgecolor="0.6", hatch="xxxx", label=ABSENT)),
  ]
  return [patch for where, patch in keys if where.any()]


def key(label: str, **options: Any) -> Line2D:
  """Returns a legend key, gray by default; `options` are those of `Line2D`."""
  return Line2D([], [], label=label, **{"color": GRAY, **options})


def style_keys(styles: dict[str, Style]) -> list[Artist]:
  """Returns one legend key per line, given the style of each line by its label."""
  return [
    key(label, color=style.color, lw=style.width, marker=style.marker, ms=3.5)
    for label, style in styles.items()
  ]


def annotate(figure: Figure, keys: Sequence[Artist], caption: str) -> None:
  """Puts the caption above all panels, and a legend of `keys` below them."""
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
  """Breaks a title into lines of about `width` inches, only after commas and semicolons."""
  tied = re.sub("(?<![,;]) ", "\N{NO-BREAK SPACE}", text)
  lines = [
    textwrap.fill(line, int(13 * width), break_long_words=False) for line in tied.split("\n")
  ]
  return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
  """Writes a figure as NAME.png and NAME.svg, and returns the paths of both files.

  Equal figures give equal bytes. While the .svg is written, a matplotlib rc parameter is changed
  for all threads.
  """
  folder.mkdir(parents=True, exist_ok=True)
  png, svg = folder / f"{name}.png", folder / f"{name}.svg"
  with files.replacing(png) as draft:
    figure.savefig(draft, format="png", dpi=150, metadata={"Software": None})
  figure.set_layout_engine("none")  # the layout is done; the .svg reuses it
  # By default, an SVG file contains the date and random ids.
  with matplotlib.rc_context({"svg.hashsalt": "rnn_jax"}), files.replacing(svg) as draft:
    figure.savefig(draft, format="svg", dpi=150, metadata={"Date": None})
  return [png, svg]
