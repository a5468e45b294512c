"""The panels and lines of a sweep's figures: which runs share a line, which lines share a panel.

Only seeds are pooled: a line is the median over seeds, and a band spans minimum to maximum. Of the
settings that vary, such as the recurrent gain, the setting with the most values distinguishes
lines, and all other settings distinguish rows of panels.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.plotting import style as plot_style
from experiments.plotting.lines import draw_profiles, finish
from experiments.plotting.style import Style

# The coordinates of the dimension `run` that do not count as settings. Any other coordinate of
# `run` counts as a setting, and distinguishes lines or panels if it has several values.
NOT_SETTINGS = (
  *("run", "cell", "options", "hidden_size", "depth", "truncation", "seed"),
  *("status", "diverged_step"),
)

# The largest number of rows of panels in a figure. With matplotlib, 250 rows took five minutes.
MAX_ROWS = 40

DASHED = (0, (4, 2))
EARLY = "diverged: last step measured"

# {(values of the settings that distinguish rows, then the depth): axes of the panel, from the top}.
Panels = dict[tuple[Hashable, ...], list[Axes]]


def run_columns(data: xr.Dataset) -> dict[str, list[Any]]:
  """Returns {coordinate of the dimension `run`: its value for each run}.

  The values are Python objects, with None in place of NaN. The name of a cell includes its options,
  as in `elman activation=relu`.
  """
  columns = {
    str(name): [None if value != value else value for value in column.values.tolist()]
    for name, column in data.coords.items()
    if column.dims == ("run",)
  }
  if "options" in columns:
    pairs = zip(columns["cell"], columns["options"], strict=True)
    columns["cell"] = [f"{cell} {options}".rstrip() for cell, options in pairs]
  return columns


def _order(value: object) -> tuple[bool, Any]:
  """Returns a sort key: None sorts last, and numbers inside text sort by their value."""
  if isinstance(value, str):
    parts = re.split(r"(\d+(?:\.\d+)?)", value)
    value = [float(part) if i % 2 else part for i, part in enumerate(parts)]
  return value is None, value


def group_runs(data: xr.Dataset, names: Sequence[str]) -> dict[tuple[Hashable, ...], list[int]]:
  """Returns {values of the coordinates `names`: indices of the runs with these values}, sorted."""
  columns = run_columns(data)
  groups: dict[tuple[Hashable, ...], list[int]] = {}
  for run in range(data.sizes["run"]):
    groups.setdefault(tuple(columns[name][run] for name in names), []).append(run)
  return dict(sorted(groups.items(), key=lambda item: [_order(value) for value in item[0]]))


def choose_rows(data: xr.Dataset, rows: Sequence[str]) -> tuple[xr.Dataset, str]:
  """Returns (the runs of at most `MAX_ROWS` rows of panels, what the caption says about it).

  If there are more rows, the chosen ones are evenly spaced, and the first and the last are among
  them.

  Args:
    data: records of a sweep, with the dimension `run`.
    rows: settings; each combination of their values is a row of panels.
  """
  groups = list(group_runs(data, rows).values())
  if len(groups) <= MAX_ROWS:
    return data, ""
  chosen = np.linspace(0, len(groups) - 1, MAX_ROWS).round().astype(int)
  runs = sorted(run for i in chosen for run in groups[i])
  return data.isel(run=runs), f"; {MAX_ROWS} of {len(groups)} settings are shown"


def varied_settings(data: xr.Dataset) -> list[str]:
  """Returns the settings with several values besides None, by decreasing number of values."""
  columns = run_columns(data)
  counts = {
    name: len(set(values) - {None}) for name, values in columns.items() if name not in NOT_SETTINGS
  }
  return sorted((name for name in counts if counts[name] > 1), key=lambda name: -counts[name])


def rows_and_line(data: xr.Dataset) -> tuple[list[str], str]:
  """Returns (settings that distinguish rows of panels, the setting that distinguishes lines)."""
  varied = varied_settings(data)
  return (["cell", *varied[1:]], varied[0]) if varied else ([], "cell")


def line_styles(data: xr.Dataset, line: str) -> dict[Hashable, Style]:
  """Returns a style for each value of the setting that distinguishes lines."""
  values = sorted(set(run_columns(data)[line]), key=_order)
  make = plot_style.cell_styles if line == "cell" else plot_style.value_styles
  return {**make(values)}


def with_largest(column: Sequence[int | float], runs: Sequence[int]) -> list[int]:
  """Returns those of `runs` with the largest value in `column`, such as the longest truncation.

  Args:
    column: value of a coordinate for every run of the sweep.
    runs: indices of runs.
  """
  largest = max(column[run] for run in runs)
  return [run for run in runs if column[run] == largest]


def describe(name: str, value: object) -> str:
  """Returns a setting and its value as text, such as "recurrent gain 1.5"."""
  text = name.replace("_", " ")
  if name == "cell":
    return str(value)
  if value is None:
    return f"no {text}"
  if value == math.inf:
    return {"truncation": "full BPTT", "clip_norm": "no clipping"}.get(name, f"{text} inf")
  return f"{text} {value:g}" if isinstance(value, float) else f"{text} {value}"


def describe_seeds(data: xr.Dataset, drawn: Iterable[Sequence[int]]) -> str:
  """Returns how seeds were pooled as text, such as "median over 2 to 3 seeds".

  Args:
    data: records of a sweep, with the dimension `run`.
    drawn: indices of the runs of each line.
  """
  groups = list(drawn)
  sizes = sorted({len(runs) for runs in groups})
  if sizes[-1] == 1:
    return "one seed"
  status = run_columns(data)["status"]
  apart = any(status[run] == "diverged" for runs in groups for run in runs)
  numbers = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
  return f"median over {numbers} seeds{', diverged runs drawn separately' * apart}"


def describe_truncations(data: xr.Dataset, drawn: Iterable[Sequence[int]]) -> str:
  """Returns the drawn runs' truncations as text, such as "truncation 32 or full BPTT".

  Args:
    data: records of a sweep, with the dimension `run`.
    drawn: indices of the runs of each line.
  """
  truncations = run_columns(data)["truncation"]
  lengths = sorted({truncations[run] for runs in drawn for run in runs})
  return " or ".join(describe("truncation", length) for length in lengths)


def bottom_layer(data: xr.Dataset, name: str) -> Float[np.ndarray, "run step ..."]:
  """Returns the values of the variable `name`, or only those of layer 1 if it has layers."""
  values = data[name].sel(layer=1) if "layer" in data[name].dims else data[name]
  return values.transpose("run", "step", ...).values.astype(float)


def at_the_end(
  values: Float[np.ndarray, "run step ..."],
) -> tuple[Float[np.ndarray, "ended ..."], Float[np.ndarray, "early ..."]]:
  """Returns (values at the last step, last measured values of the runs that diverged before it).

  A run counts as measured at a step unless all its values at this step are NaN. Runs that were
  never measured are left out.
  """
  measured = ~np.isnan(values.reshape(*values.shape[:2], -1)).all(axis=-1)
  last = measured.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
  ended = measured[:, -1]
  early = measured.any(axis=1) & ~ended
  return values[ended, -1], values[early, last[early]]


def draw_the_end(
  axis: Axes,
  x: Shaped[np.ndarray, " x"],
  profiles: Float[np.ndarray, "seeds step x"],
  style: Style,
  label: str,
  track: int,
) -> None:
  """Draws one line for the profiles at the last step, and one for each run that diverged before it.

  Args:
    axis: the axis to draw on.
    x: coordinates of the profiles.
    profiles: profiles of the runs at every step.
    style, label, track: as in `draw_profiles`.
  """
  ended, early = at_the_end(profiles)
  if len(ended):
    draw_profiles(axis, x, ended, style, label, track)
  for profile in early:
    draw_profiles(axis, x, profile[None], style, f"{label}, {EARLY}", track, linestyle=":")


def make_panels(
  data: xr.Dataset,
  rows: Sequence[str],
  x_label: str,
  y_labels: Sequence[str],
  y_scales: Sequence[str] | None = None,
) -> tuple[Figure, Panels]:
  """Returns (figure, its panels), with a column per depth and rows for the settings `rows`.

  Args:
    data: records of a sweep, with the dimension `run`.
    rows: settings; each combination of their values gets a row of panels.
    x_label: label of the horizontal axis.
    y_labels: labels of the axes stacked in each panel.
    y_scales: scales of these axes; None if all are linear.
  """
  names, depths = list(group_runs(data, rows)), sorted(set(run_columns(data)["depth"]))
  places = [[(*name, depth) for depth in depths] for name in names]
  titles = [[", ".join(map(describe, [*rows, "depth"], place)) for place in row] for row in places]
  figure, axes = plot_style.grid(titles, x_label, y_labels, y_scales)
  return figure, dict(zip(itertools.chain(*places), itertools.chain(*axes), strict=True))


def line_keys(line: str, styles: Mapping[Hashable, Style]) -> list[Artist]:
  """Returns the legend keys of the lines, one for each value of the setting `line`."""
  return plot_style.style_keys({describe(line, value): style for value, style in styles.items()})


def common_keys(panels: Panels, drawn: Iterable[Sequence[int]]) -> list[Artist]:
  """Returns the legend keys of bands, of runs that diverged, and of markers on the edges.

  Args:
    panels: the panels, in which all lines must have been drawn.
    drawn: indices of the runs of each line.
  """
  keys: list[Artist] = []
  if any(len(runs) > 1 for runs in drawn):
    keys.append(
      Patch(color=plot_style.GRAY, alpha=0.3, lw=0, label="minimum to maximum over seeds")
    )
  drawn_lines = (line for axes in panels.values() for axis in axes for line in axis.lines)
  if any(str(line.get_label()).endswith(EARLY) for line in drawn_lines):
    keys.append(plot_style.key(EARLY, ls=":", lw=1.5))
  return keys + edge_keys(panels)


def edge_keys(panels: Panels) -> list[Artist]:
  """Makes room for the markers on the edges of the panels; returns the markers' legend keys."""
  keys = [key for axes in zip(*panels.values(), strict=True) for key in finish(axes)]
  return list({key.get_label(): key for key in keys}.values())
