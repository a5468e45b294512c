"""The panels and lines of a sweep's figures: which runs share a line, which lines share a panel.

Only seeds are pooled: a line is the median or the mean over seeds, with a band. Of the settings
that vary, such as the recurrent gain, the setting with the most values distinguishes lines, and all
other settings distinguish rows of panels, unless `Look.facet` names one for the rows.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.plotting import style as plot_style
from experiments.plotting.lines import BANDS, draw_profiles, finish
from experiments.plotting.style import Style

# The coordinates of the dimension `run` that do not count as settings. Any other coordinate of
# `run` counts as a setting, and distinguishes lines or panels if it has several values.
NOT_SETTINGS = (
  *("run", "cell", "options", "hidden_size", "depth", "truncation", "seed"),
  *("status", "diverged_step", "baseline"),
)

# The largest number of rows of axes in a figure. With matplotlib, 250 rows took five minutes.
MAX_ROWS = 40

DASHED = (0, (4, 2))
EARLY = "diverged: last step measured"

# {(values of the settings that distinguish rows, then the depth): axes of the panel, from the top}.
Panels = dict[tuple[Hashable, ...], list[Axes]]


class Look(NamedTuple):
  """What the user may choose about a figure.

  Attributes:
    facet: the setting that distinguishes rows of panels; if None, it is chosen.
    band: what lines and bands show of the seeds, one of `BANDS`.
    width: width of the figure in inches; None for the width that its panels need.
  """

  facet: str | None = None
  band: str = "minmax"
  width: float | None = None


DEFAULT = Look()


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


def choose_rows(data: xr.Dataset, rows: Sequence[str], stack: int = 1) -> tuple[xr.Dataset, str]:
  """Returns (the runs of as many rows of panels as a figure has, what the caption says of them).

  If there are more rows than fit into `MAX_ROWS` rows of axes, the chosen ones are evenly spaced,
  and the first and the last are among them.

  Args:
    data: records of a sweep, with the dimension `run`.
    rows: settings; each combination of their values is a row of panels.
    stack: number of axes stacked in each panel.
  """
  groups = list(group_runs(data, rows).values())
  count = max(2, MAX_ROWS // stack)
  selected = _selected(data).replace("_", " ")
  note = f"; {selected} selected for each setting on held-out data" * bool(selected)
  if len(groups) <= count:
    return data, note
  chosen = np.linspace(0, len(groups) - 1, count).round().astype(int)
  runs = sorted(run for i in chosen for run in groups[i])
  return data.isel(run=runs), f"{note}; {count} of {len(groups)} settings are shown"


def varied_settings(data: xr.Dataset) -> list[str]:
  """Returns the settings with several values besides None, by decreasing number of values.

  A setting of which the best value was selected for all other settings is left out.
  """
  columns = run_columns(data)
  counts = {
    name: len(set(values) - {None}) for name, values in columns.items() if name not in NOT_SETTINGS
  }
  if _vary_in_size(columns):
    counts["hidden_size"] = len(set(columns["hidden_size"]))
  counts.pop(_selected(data), None)
  return sorted((name for name in counts if counts[name] > 1), key=lambda name: -counts[name])


def _selected(data: xr.Dataset) -> str:
  """Returns the setting of which one value was selected for all other settings; "" if none was."""
  columns, name = run_columns(data), str(data.attrs.get("selected", ""))
  if name not in columns:
    return ""
  own = ("run", "options", "seed", "status", "diverged_step", "baseline", name)
  others = [column for other, column in columns.items() if other not in own]
  found = dict.fromkeys(zip(*others, columns[name], strict=True))
  return name if len({values[:-1] for values in found}) == len(found) else ""


def _vary_in_size(columns: Mapping[str, Sequence[Any]]) -> bool:
  """Returns whether runs with equal cells, depths and tasks differ in their hidden size.

  Otherwise the hidden sizes were chosen to meet a parameter budget, and follow from these settings.
  """
  if "hidden_size" not in columns:
    return False
  names = ("cell", "depth", "layer_norm", "residual", "task", "hidden_size")
  networks = set(zip(*(columns[name] for name in names if name in columns), strict=True))
  return len({network[:-1] for network in networks}) < len(networks)


def facets(data: xr.Dataset) -> list[str]:
  """Returns the settings with several values that may distinguish rows of panels."""
  columns = run_columns(data)
  pooled = [name for name in ("cell", "truncation", "seed") if len(set(columns[name])) > 1]
  return [*pooled, *varied_settings(data)]


def rows_and_line(data: xr.Dataset, facet: str | None = None) -> tuple[list[str], str]:
  """Returns (settings that distinguish rows of panels, the setting that distinguishes lines).

  If `facet` is not None, it is the first of the settings that distinguish rows.
  """
  line, *others = [name for name in varied_settings(data) if name != facet] or ["cell"]
  if line == "cell":
    return [] if facet is None else [facet], line
  return panel_rows([*others], facet), line


def panel_rows(settings: Sequence[str], facet: str | None = None) -> list[str]:
  """Returns the settings that distinguish rows of panels: `facet`, the cell, then `settings`."""
  return [*dict.fromkeys([*([] if facet is None else [facet]), "cell", *settings])]


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
  if value is None or value is False:
    return f"no {text}"
  if name == "loss_scale" and value == "none":
    return "no loss scale"
  if value is True or name in ("task", "optimizer", "dtype"):
    return text if value is True else str(value)
  if value == math.inf:
    return {"truncation": "full BPTT", "clip_norm": "no clipping"}.get(name, f"{text} inf")
  return f"{text} {value:g}" if isinstance(value, float) else f"{text} {value}"


def describe_seeds(data: xr.Dataset, drawn: Iterable[Sequence[int]], band: str = "minmax") -> str:
  """Returns how seeds were pooled as text, such as "median over 2 to 3 seeds".

  Args:
    data: records of a sweep, with the dimension `run`.
    drawn: indices of the runs of each line.
    band: one of `BANDS`.
  """
  groups = list(drawn)
  sizes = sorted({len(runs) for runs in groups})
  if sizes[-1] == 1:
    return "one seed"
  status = run_columns(data)["status"]
  apart = any(status[run] == "diverged" for runs in groups for run in runs)
  numbers = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
  return f"{BANDS[band][0]} over {numbers} seeds{', diverged runs drawn separately' * apart}"


def describe_truncations(data: xr.Dataset, drawn: Iterable[Sequence[int]]) -> str:
  """Returns the drawn runs' truncations as text, such as "truncation 32 or full BPTT".

  Gradient estimators other than backpropagation through time stand in place of a truncation.

  Args:
    data: records of a sweep, with the dimension `run`.
    drawn: indices of the runs of each line.
  """
  columns, indices = run_columns(data), [run for runs in drawn for run in runs]
  estimators = columns.get("gradient", ["bptt"] * len(columns["truncation"]))
  lengths = sorted({columns["truncation"][run] for run in indices if estimators[run] == "bptt"})
  others = sorted({str(estimators[run]) for run in indices} - {"bptt"})
  return " or ".join([*(describe("truncation", length) for length in lengths), *others])


def bottom_layer(data: xr.Dataset, name: str) -> Float[np.ndarray, "run step ..."]:
  """Returns the values of the variable `name`, or only those of layer 1 if it has layers."""
  values = data[name].sel(layer=1) if "layer" in data[name].dims else data[name]
  return values.transpose("run", "step", ...).values.astype(float)


def has_diverged(data: xr.Dataset) -> Bool[np.ndarray, " run"]:
  """Returns whether each run has diverged."""
  return np.array([status == "diverged" for status in run_columns(data)["status"]])


def after_training(data: xr.Dataset) -> str:
  """Returns the text "after training (step 200)"; without the step if runs differ in it."""
  steps = run_columns(data).get("steps", [0])
  return "after training" + f" (step {data['step'].values[-1]})" * (len(set(steps)) == 1)


def at_the_end(
  values: Float[np.ndarray, "run step ..."], diverged: Bool[np.ndarray, " run"]
) -> tuple[Float[np.ndarray, "ended ..."], Float[np.ndarray, "early ..."]]:
  """Returns the values of each run at the last step at which it was measured.

  A run counts as measured at a step unless all its values at this step are NaN. Runs that were
  never measured are left out.

  Args:
    values: the values of the runs at every step.
    diverged: whether each run has diverged.
  Returns:
    (values of the runs that reached their last step, values of those that diverged before it).
  """
  measured = ~np.isnan(values.reshape(*values.shape[:2], -1)).all(axis=-1)
  last = measured.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
  early = measured.any(axis=1) & ~measured[:, -1] & diverged
  ended = measured.any(axis=1) & ~early
  return values[ended, last[ended]], values[early, last[early]]


def draw_the_end(
  axis: Axes,
  x: Shaped[np.ndarray, " x"],
  profiles: Float[np.ndarray, "seeds step x"],
  diverged: Bool[np.ndarray, " seeds"],
  style: Style,
  label: str,
  track: int,
  band: str = "minmax",
) -> None:
  """Draws one line for the runs that reached their last step, and one for each that diverged.

  Args:
    axis: the axis to draw on.
    x: coordinates of the profiles.
    profiles: profiles of the runs at every step.
    diverged: whether each run has diverged.
    style, label, track, band: as in `draw_profiles`.
  """
  ended, early = at_the_end(profiles, diverged)
  if len(ended):
    draw_profiles(axis, x, ended, style, label, track, band=band)
  for profile in early:
    draw_profiles(axis, x, profile[None], style, f"{label}, {EARLY}", track, linestyle=":")


def make_panels(
  data: xr.Dataset,
  rows: Sequence[str],
  x_label: str,
  y_labels: Sequence[str],
  y_scales: Sequence[str] | None = None,
  width: float | None = None,
) -> tuple[Figure, Panels]:
  """Returns (figure, its panels), with a column per depth and rows for the settings `rows`.

  Args:
    data: records of a sweep, with the dimension `run`.
    rows: settings; each combination of their values gets a row of panels.
    x_label: label of the horizontal axis.
    y_labels: labels of the axes stacked in each panel.
    y_scales: scales of these axes; None if all are linear.
    width: as in `Look`.
  """
  names, depths = list(group_runs(data, rows)), sorted(set(run_columns(data)["depth"]))
  places = [[(*name, depth) for depth in depths] for name in names]
  titles = [[", ".join(map(describe, [*rows, "depth"], place)) for place in row] for row in places]
  figure, axes = plot_style.grid(titles, x_label, y_labels, y_scales, width)
  return figure, dict(zip(itertools.chain(*places), itertools.chain(*axes), strict=True))


def line_keys(line: str, styles: Mapping[Hashable, Style]) -> list[Artist]:
  """Returns the legend keys of the lines, one for each value of the setting `line`."""
  return plot_style.style_keys({describe(line, value): style for value, style in styles.items()})


def common_keys(
  panels: Panels, drawn: Iterable[Sequence[int]], band: str = "minmax"
) -> list[Artist]:
  """Returns the legend keys of bands, of runs that diverged, and of markers on the edges.

  Args:
    panels: the panels, in which all lines must have been drawn.
    drawn: indices of the runs of each line.
    band: one of `BANDS`.
  """
  keys: list[Artist] = []
  if any(len(runs) > 1 for runs in drawn):
    keys.append(Patch(color=plot_style.GRAY, alpha=0.3, lw=0, label=BANDS[band][1]))
  drawn_lines = (line for axes in panels.values() for axis in axes for line in axis.lines)
  if any(str(line.get_label()).endswith(EARLY) for line in drawn_lines):
    keys.append(plot_style.key(EARLY, ls=":", lw=1.5))
  return keys + edge_keys(panels)


def edge_keys(panels: Panels) -> list[Artist]:
  """Makes room for the markers on the edges of the panels; returns the markers' legend keys."""
  keys = [key for axes in zip(*panels.values(), strict=True) for key in finish(axes)]
  return list({key.get_label(): key for key in keys}.values())
