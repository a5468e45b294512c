"""Appearance of figures: fonts, line styles, grids of panels, heat maps, legends, image files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.plotting import text
from experiments.runtime import files

ZERO = "0 (an example's norm is below 1e-38)"
OVERFLOW = "out of range (inf)"
ABSENT = "not measured"
GRAY = "#555555"
# Font sizes in points: SMALL for ticks and legends, MEDIUM for titles and axis labels.
SMALL, MEDIUM = 8.0, 9.0
WIDTH = 6.8  # minimum width in inches: the text width of a page
NARROWEST = 1.5  # minimum width in inches of a panel in a figure whose width is given
FORMATS = ("png", "svg", "pdf")

RC: dict[Any, Any] = {
  **dict.fromkeys(("axes.labelsize", "axes.titlesize", "figure.titlesize"), MEDIUM),
  **dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), SMALL),
  "savefig.dpi": 150.0,
  # The default, Type 3 fonts in PDF files, is refused by many publishers.
  "pdf.fonttype": 42,
  # By default, an SVG file contains random ids.
  "svg.hashsalt": "rnn_jax",
}
# Figures depend on the records alone. A user's matplotlibrc may request fonts or LaTeX, which may
# not be installed.
matplotlib.rcdefaults()
matplotlib.rcParams.update(RC)


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
  width: float | None = None,
) -> tuple[Figure, list[list[list[Axes]]]]:
  """Returns a figure with a grid of panels, each of which is a stack of axes.

  All axes share x. Axes at the same position of their stacks share y.

  Args:
    titles: title of each panel, by row and column.
    x_label: label of the horizontal axes.
    y_labels: labels of the vertical axes of a stack, one per axis, from the top down.
    y_scales: scales of those axes, as for `Axes.set_yscale`; linear if None.
    width: width of the figure in inches. A row whose panels do not fit side by side is broken into
      several. If None, the figure is as wide as its rows.
  Returns:
    The figure, and its axes by row, column and position in the stack.
  """
  stack, together = len(y_labels), len(titles[0])
  columns = together if width is None else max(1, min(together, int(width / NARROWEST)))
  whole = max(WIDTH, 3.4 * columns) if width is None else width
  figure = _figure(whole)
  panel = whole / columns
  places = [
    (i, j) for i in range(len(titles)) for j in range(-(-together // columns) * columns)
  ]  # a broken row may leave the last places of its last line empty
  lines = [places[i : i + columns] for i in range(0, len(places), columns)]
  size = matplotlib.rcParams["axes.titlesize"]
  wrapped = {
    (i, j): text.wrap(figure, title, (whole - 0.8) / columns - 0.1, size)
    for i, row in enumerate(titles)
    for j, title in enumerate(row)
  }
  deepest = [max(wrapped[p].count("\n") for p in line if p in wrapped) for line in lines]
  height = _axis_height(panel, stack, width)
  figure.set_figheight(sum(height * stack + 0.3 + 0.14 * more for more in deepest) + 0.1)
  if width is not None:
    size = matplotlib.rcParams["axes.labelsize"]
    y_labels = [text.wrap(figure, label, height, size) for label in y_labels]
    x_label = text.wrap(figure, x_label, panel - 0.4, size)
  axes = figure.subplots(len(lines) * stack, columns, sharex=True, squeeze=False)
  found: dict[tuple[int, int], list[Axes]] = {}
  for i, line in enumerate(lines):
    for j, place in enumerate(line):
      own = list(axes[i * stack : (i + 1) * stack, j])
      if place not in wrapped:
        for axis in own:
          axis.remove()
        continue
      found[place] = own
      own[0].set_title(wrapped[place])
      is_last = i + 1 == len(lines) or lines[i + 1][j] not in wrapped
      for k, axis in enumerate(own):
        _prepare(axis, axes[k, 0], panel, y_scales[k] if y_scales else "linear")
        axis.tick_params(labelbottom=is_last and k + 1 == stack, labelleft=j == 0, which="both")
        axis.set_xlabel(x_label if is_last and k + 1 == stack else "")
        axis.set_ylabel(y_labels[k] if j == 0 else "")
  return figure, [[found[i, j] for j in range(together)] for i in range(len(titles))]


def _figure(width: float) -> Figure:
  figure = Figure(figsize=(width, WIDTH), layout="constrained")
  FigureCanvasAgg(figure)  # has a renderer, which measures text
  return figure


def _axis_height(panel: float, stack: int, width: float | None) -> float:
  """Returns the height in inches of an axis in a panel that is `panel` inches wide."""
  height = 2.1 if width is None else min(max(0.6 * panel, 1.5), 3.0)
  return height if stack <= 3 else 0.52 * height  # a tall stack must fit on a page


def _prepare(axis: Axes, shared: Axes, panel: float, scale: str) -> None:
  """Sets the scales, ticks and spines of an axis that shares y with `shared`."""
  if axis is not shared:
    axis.sharey(shared)
  axis.set_yscale(scale)
  axis.xaxis.set_major_locator(_ticks(panel))
  axis.spines[["top", "right"]].set_visible(False)


def _ticks(panel: float) -> MaxNLocator:
  """Returns as many ticks as a panel that is `panel` inches wide has room for."""
  return MaxNLocator(max(3, min(6, int(1.8 * panel))), integer=True)


def heat_maps(
  maps: Sequence[Sequence[tuple[str, np.ndarray]]],
  times: np.ndarray,
  x_label: str,
  label: str,
  names: Sequence[str] | None = None,
  width: float | None = None,
) -> tuple[Figure, list[Artist]]:
  """Returns a figure of heat maps on one color scale, and legend keys for values off that scale.

  Args:
    maps: title and log10 values [layer, time] of each panel, by row and column.
    times: positions along the time axis.
    x_label: label of the time axis.
    label: label of the color scale.
    names: names of the values' rows, from the bottom up; if None, the rows are numbered as layers.
    width: as in `grid`.
  """
  flat = np.concatenate([image.ravel() for row in maps for _, image in row])
  finite = flat[np.isfinite(flat)]
  low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 0.0)
  high = max(high, low + 1e-3)
  columns = len(maps[0])
  whole = max(WIDTH, 3.4 * columns) if width is None else width
  figure = _figure(whole)
  left, below = 0.5, width is not None and width < 5  # whether the color scale is below the panels
  if names is not None and width is not None:
    size = matplotlib.rcParams["ytick.labelsize"]
    names = [text.wrap(figure, name, 0.4 * width, size) for name in names]
    left = max(text.size(figure, name, size)[0] for name in names) + 0.2
  room = whole - (0.1 if below else 0.8) - (0 if width is None else left)
  if width is not None and room / columns < 1.1:
    maps, columns = [[panel] for row in maps for panel in row], 1
  size = matplotlib.rcParams["axes.titlesize"]
  titles = [text.wrap(figure, title, room / columns, size) for row in maps for title, _ in row]
  margin = 0.3 + 0.16 * max(title.count("\n") + 1 for title in titles)
  layers = [row[0][1].shape[0] for row in maps]
  line = 0.3 if names is None else 0.06 + 0.14 * max(name.count("\n") + 1 for name in names)
  figure.set_figheight(sum(margin + line * n for n in layers) + (0.8 if below else 0.4))
  axes = figure.subplots(len(maps), columns, sharex=True, squeeze=False, height_ratios=layers)
  if width is not None:
    size = matplotlib.rcParams["axes.labelsize"]
    x_label = text.wrap(figure, x_label, room / columns, size)
    label = text.wrap(figure, label, room if below else figure.get_figheight() - 0.6, size)
  images = [image for row in maps for _, image in row]
  for axis, title, image in zip(axes.flat, titles, images, strict=True):
    picture = _draw_map(axis, image, times, low, high)
    axis.set_title(title)
    axis.set_yticks(range(1, len(image) + 1), names)
    axis.xaxis.set_major_locator(_ticks(whole / columns))
    axis.set_xlabel(x_label)
    if names is None:
      axis.set_ylabel("layer")
    axis.label_outer()
  if below:
    gap = 0.1 / figure.get_figheight()
    bar = figure.colorbar(picture, ax=axes, location="bottom", aspect=25, pad=gap)
    bar.locator = MaxNLocator(5)
  else:
    bar = figure.colorbar(picture, ax=axes, aspect=5 * figure.get_figheight())
  bar.set_label(label)
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
  """Puts the caption above all panels, and a legend of `keys` below them.

  The figure becomes higher by both. The legend has as many columns as fit.
  """
  if not hasattr(figure.canvas, "get_renderer"):
    FigureCanvasAgg(figure)
  width, height = figure.get_size_inches()
  size = matplotlib.rcParams["figure.titlesize"]
  wrapped = text.wrap(figure, caption, width - 0.2, size)
  figure.suptitle(wrapped)
  height += text.size(figure, wrapped, size)[1] + 0.1
  if keys:
    labels, columns = _legend_columns(figure, [str(key.get_label()) for key in keys], width)
    legend = figure.legend(
      list(keys), labels, loc="outside lower center", ncols=columns, frameon=False
    )
    height += legend.get_window_extent().height / figure.dpi
  figure.set_figheight(height)


def _legend_columns(figure: Figure, labels: Sequence[str], width: float) -> tuple[list[str], int]:
  """Returns a legend's labels, broken into lines where they are too wide, and its columns."""
  size = matplotlib.rcParams["legend.fontsize"]
  em = FontProperties(size=size).get_size_in_points() / 72
  rc = matplotlib.rcParams
  handle = em * (rc["legend.handlelength"] + rc["legend.handletextpad"])
  between = em * rc["legend.columnspacing"]
  room = width - 2 * em * (rc["legend.borderpad"] + rc["legend.borderaxespad"])
  wrapped = [text.wrap(figure, label, room - handle, size) for label in labels]
  widths = [handle + text.size(figure, label, size)[0] for label in wrapped]
  for columns in range(len(labels), 1, -1):
    # A legend of matplotlib fills its columns from the left, the first ones with one key more.
    parts = np.array_split(np.array(widths), columns)
    if sum(part.max() for part in parts) + between * (columns - 1) <= room:
      return wrapped, columns
  return wrapped, 1


def save(
  figure: Figure, folder: Path, name: str, formats: Iterable[str] = ("png", "svg")
) -> list[Path]:
  """Writes a figure as NAME.png, NAME.svg, …, and returns the paths of these files.

  Equal figures give equal bytes.
  """
  folder.mkdir(parents=True, exist_ok=True)
  drawn = {folder / f"{name}.{kind}": rendered(figure, kind) for kind in formats}
  for path, data in drawn.items():
    files.write_bytes(path, data)
  return [*drawn]


def rendered(figure: Figure, kind: str) -> bytes:
  """Returns a figure as the contents of a file of the format `kind`, one of `FORMATS`.

  All formats of a figure have the layout of the first one.
  """
  # By default, these files contain the date.
  metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
  data = io.BytesIO()
  figure.savefig(data, format=kind, metadata=metadata[kind])
  figure.set_layout_engine("none")
  return data.getvalue()
