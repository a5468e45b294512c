"""The forest plot: each effect with its interval, in one panel per outcome."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.ablation.effects import Effect
from experiments.ablation.tables import change, grouped, setting, significant, unknown
from experiments.plotting import style, text

_COLUMNS = 3  # the largest number of panels next to each other
MOST_ROWS = 40
_LABEL = 36  # the largest number of letters in a line of a row's label
_LETTER = 0.07  # width of a letter in inches
_PANEL = 1.6  # the smallest width of a panel in inches


def forest(found: Sequence[Effect], width: float | None = None) -> Figure:
  """Draws the effects of single settings, but not the interactions.

  A filled marker is an effect with p below 0.05 after Holm's correction. A row without an effect
  says how many runs have no known outcome.

  Args:
    found: the effects.
    width: width of the figure in inches; None for the width that the panels need.
  """
  groups = dict(grouped([effect for effect in found if len(effect.factors) == 1]))
  names = list(dict.fromkeys(_label(effect) for group in groups.values() for effect in group))
  shown = names[:MOST_ROWS]
  letters = _LABEL if width is None else min(_LABEL, int(0.45 * width / _LETTER))
  labels = [_wrapped(name, letters) for name in shown]
  margin = _LETTER * max(len(line) for label in labels for line in label.split("\n"))
  most = _COLUMNS
  if width is not None:
    most = max(1, min(_COLUMNS, int((width - margin) / _PANEL)))
  rows = math.ceil(len(groups) / most)
  columns = math.ceil(len(groups) / rows)
  if width is None:
    width = max(margin + 2.4 * columns, style.WIDTH)
  panel = (width - margin) / columns  # inches
  lines = max(label.count("\n") + 1 for label in labels)
  size = (width, rows * ((0.06 + 0.12 * max(2, lines)) * len(shown) + 0.9))
  figure = Figure(figsize=size, layout="constrained")
  FigureCanvasAgg(figure)  # measures the titles
  axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
  for axis in axes.flat[len(groups) :]:
    axis.set_axis_off()
  for axis, (heading, group) in zip(axes.flat, groups.items(), strict=False):
    _draw(axis, group, shown)
    name, _, direction = heading.rpartition(" (")
    title = _plain(name)
    axis.set_title(text.wrap(figure, title, panel - 0.3, style.MEDIUM))
    arrow = "better →" if direction.startswith("higher") else "← better"
    axis.set_xlabel(arrow)
  for axis in axes[:, 0]:
    axis.set_yticks(range(len(shown)), list(map(_plain, labels)))
  axes[0, 0].set_ylim(len(shown) - 0.5, -0.5)
  seeds = sorted({effect.seeds for effect in found})
  many = f"; {MOST_ROWS} of {len(names)} effects" * (len(names) > MOST_ROWS)
  keys = [
    style.key("95 % interval", marker="o", mfc="white", ms=4),
    style.key("p < 0.05 after Holm's correction", marker="o", ls="none", ms=4),
  ]
  if any(effect.statistic == "median" and not math.isnan(effect.effect) for effect in found):
    keys.append(style.key("median, without interval", marker="D", mfc="white", ls="none", ms=4))
  number = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
  pooled = "one seed" if seeds == [1] else f"{number} seeds"
  style.annotate(figure, keys, f"Effect of each setting against its base; {pooled}{many}")
  return figure


def _label(effect: Effect) -> str:
  return f"{setting(effect)}: {change(effect)}".replace("_", " ")


def _wrapped(text: str, letters: int) -> str:
  lines = 2 if letters == _LABEL else 3
  return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" …"))


def _plain(text: str) -> str:
  """Returns text that matplotlib does not take for mathematics."""
  return text.replace("$", r"\$")


def _draw(axis: Axes, group: Sequence[Effect], shown: Sequence[str]) -> None:
  """Draws the effects on one outcome."""
  color = style.CELL_STYLES["lstm"].color
  axis.axvline(0, color=style.GRAY, lw=0.8, zorder=1)
  for effect in group:
    if _label(effect) not in shown:
      continue
    y = shown.index(_label(effect))
    if math.isnan(effect.effect):
      note = unknown(effect) or "not known"
      place = axis.get_yaxis_transform()
      axis.text(0.02, y, note, transform=place, va="center", fontsize=style.SMALL, color="0.4")
      continue
    if effect.method:
      axis.plot([effect.low, effect.high], [y, y], color=color, lw=1.4)
    face = color if significant(effect) else "white"
    marker = "D" if effect.statistic == "median" else "o"
    axis.plot(effect.effect, y, marker=marker, color=color, mfc=face, ms=5)
  if all(math.isnan(effect.effect) for effect in group):
    axis.set_xticks([])
  else:
    axis.xaxis.set_major_locator(MaxNLocator(4))
  axis.spines[["top", "right", "left"]].set_visible(False)
  axis.tick_params(axis="y", length=0)
