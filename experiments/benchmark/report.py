"""The benchmark's output: tables on the screen, performance targets, and a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.table import Table

from experiments.benchmark.cases import (
  FORWARD,
  GRADIENT,
  MEASURES,
  NORMS,
  TRAINING,
  Row,
  flops_per_step,
)
from experiments.benchmark.implementations import IMPLEMENTATIONS, OURS
from experiments.benchmark.sweep_times import SweepTime
from experiments.benchmark.targets import (
  COST,
  LIMIT,
  LOOP,
  MEMORY,
  SPEED,
  Measurement,
  Results,
  Target,
  fastest_baseline,
  remat_targets,
  row_targets,
  sweep_targets,
)


def print_row(
  console: Console, row: Row, measurements: Sequence[Measurement], limit: tuple[float, float]
) -> None:
  """Prints the table of one row of the comparison, one line per implementation.

  Args:
    console: where to print.
    row: the layers: their cell, shape and depth.
    measurements: all measurements of the row.
    limit: the dependency limit in seconds: forward pass, and forward and backward pass.
  """
  found = {(m.implementation, m.measure): m for m in measurements if m.seconds}
  ours = found[OURS, GRADIENT]
  operations = 3 * flops_per_step(row) * row.shape.steps
  table = Table(
    title=f"{row}: products alone {limit[0] * 1e3:.2f} ms forward, "
    f"{limit[1] * 1e3:.2f} ms forward + backward",
    title_justify="left",
  )
  table.add_column("implementation")
  columns = (
    "forward, ms",
    "+ backward, ms",
    "minimum, ms",
    "time / ours",
    "compile, s",
    "memory, MiB",
    "per step, µs",
    "GFLOP/s",
    "products / time",
    "+ norms, ms",
    "training, ms",
  )
  for name in columns:
    table.add_column(name, justify="right")
  table.add_column("note")
  # Iterates in reverse, so that an implementation's first note overwrites its later ones.
  notes = {m.implementation: m.note for m in reversed(measurements)}
  for implementation in (name for name in IMPLEMENTATIONS if name in notes):
    note = notes[implementation]
    at = {measure: found.get((implementation, measure)) for measure in MEASURES}
    gradient = at[GRADIENT]
    if gradient is None:
      table.add_row(implementation, *[""] * len(columns), note)
      continue
    memory = gradient.temporaries
    table.add_row(
      implementation,
      _ms(at[FORWARD]),
      _ms(gradient),
      f"{gradient.minimum * 1e3:.2f}",
      f"{gradient.median / ours.median:.2f}",
      f"{gradient.compile_seconds:.1f}" if gradient.compile_seconds else "",
      "" if memory is None else f"{memory / 2**20:.1f}",
      f"{gradient.median / row.shape.steps * 1e6:.1f}",
      f"{operations / gradient.median / 1e9:.0f}",
      f"{limit[1] / gradient.minimum:.2f}",
      _ms(at[NORMS]),
      _ms(at[TRAINING]),
      note,
      style="bold" if implementation == OURS else None,
    )
  console.print(table)


def _ms(measurement: Measurement | None) -> str:
  return "" if measurement is None else f"{measurement.median * 1e3:.2f}"


def print_summary(console: Console, results: Results) -> None:
  """Prints all targets with value and bound: a table of the rows' targets, then the others."""
  table = Table(title="Targets, row by row", title_justify="left")
  table.add_column("row")
  for column in (
    "P1 fastest baseline",
    "P1 its time / ours",
    "P2 time that norms add",
    "P2 torch's loop with norms / ours",
    "P5 memory that norms add",
    "P7 products / ours",
  ):
    table.add_column(column, justify="right")
  met: dict[str, list[bool]] = {}
  for row in results.limits:
    targets = {t.name: t for t in row_targets(results, row)}
    for target in targets.values():
      met.setdefault(target.name.split()[0], []).append(target.met)
    cells = [targets.get(name) for name in (SPEED, COST, LOOP, MEMORY, LIMIT)]
    shown = [_mark(target) for target in cells]
    table.add_row(str(row), fastest_baseline(results, row)[0], *shown)
  console.print(table)
  others = sweep_targets(results) + remat_targets(results)
  for target in others:
    met.setdefault(target.name.split()[0], []).append(target.met)
    console.print(f"{target.name}: {_mark(target)}")
  for name, outcomes in sorted(met.items()):
    console.print(f"{name}: met in {sum(outcomes)} of {len(outcomes)}")


def _mark(target: Target | None) -> str:
  if target is None:
    return ""
  scale, unit = (100, " %") if target.percent else (1, "")
  sign, color = (">=", "green") if target.met else ("<", "red")
  if not target.at_least:
    sign = "<=" if target.met else ">"
  value, bound = target.value * scale, target.bound * scale
  return f"[{color}]{value:.2f}{unit} {sign} {bound:g}{unit}[/]"


def print_remat(console: Console, remat: Sequence[Measurement]) -> None:
  """Prints the gradient's time and memory with and without rematerialization."""
  console.print(f"{remat[0].row}: rematerialization")
  table = Table()
  for column in ("remat", "forward + backward, ms", "temporaries, MiB"):
    table.add_column(column, justify="right")
  for m in remat:
    memory = "" if m.temporaries is None else f"{m.temporaries / 2**20:.1f}"
    table.add_row(m.measure, _ms(m), memory)
  console.print(table)


def print_sweep_time(console: Console, time: SweepTime) -> None:
  """Prints the time of one sweep in one line."""
  shown = "not measured" if time.seconds is None else f"{time.seconds:.1f} s"
  training = "" if time.training is None else f", {time.training:.1f} s of it training"
  console.print(f"sweep, {time.name}: {shown}{training}{time.note and f' ({time.note})'}")


_COLORS = {
  "torch": "#D55E00",
  "torch_loop": "#E69F00",
  "torch_cells": "#F0E442",
  "linen": "#0072B2",
  "nnx": "#56B4E9",
  "haiku": "#009E73",
  "equinox": "#CC79A7",
  "keras": "#777777",
}


def picture(results: Results) -> Figure:
  """Draws the time that each baseline needs for the gradient, relative to ours.

  There is one panel for each cell and depth, and in it one group of bars for each shape.
  """
  rows = list(results.limits)
  cells = sorted({row.cell for row in rows})
  depths = sorted({row.depth for row in rows})
  panels = [(cell, depth) for cell in cells for depth in depths]
  timed = {m.implementation for m in results.layers if m.seconds}
  shown = [name for name in _COLORS if name in timed]
  shapes = len({row.shape for row in rows})
  size = (max(5.5, 1.1 * shapes + 0.5) * len(depths), 2.4 * len(cells) + 0.8)
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(len(cells), len(depths), squeeze=False, sharey=True).flat
  for axis, (cell, depth) in zip(axes, panels, strict=True):
    group = [row for row in rows if (row.cell, row.depth) == (cell, depth)]
    for i, row in enumerate(group):
      _draw_bars(axis, i, row, results, shown)
    axis.axhline(1, color="black", linewidth=1)
    axis.set_yscale("log", base=2)
    axis.margins(y=0.15)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xticks(range(len(group)), [str(row.shape) for row in group], fontsize=7)
    axis.set_title(f"{cell}, depth {depth}", fontsize=9)
    axis.set_ylabel("time / ours", fontsize=9)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
  handles = [Patch(color=_COLORS[name], label=name) for name in shown]
  handles.append(
    Patch(facecolor="white", edgecolor="black", hatch="///", label="different function")
  )
  figure.legend(
    handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False
  )
  figure.supxlabel("batch x steps x inputs x hidden; above the line ours is faster", fontsize=9)
  return figure


def _draw_bars(axis: Axes, center: int, row: Row, results: Results, shown: Sequence[str]) -> None:
  """Draws one bar for each timed baseline of a row, as a group around x = `center`."""
  width = 0.8 / max(len(shown), 1)
  found = {
    m.implementation: m
    for m in results.layers
    if m.row == row and m.measure == GRADIENT and m.seconds
  }
  for j, name in enumerate(shown):
    if name not in found:
      continue
    ratio = found[name].median / found[OURS].median
    x = center + (j - (len(shown) - 1) / 2) * width
    hatch = "///" if found[name].note else None
    axis.bar(x, ratio - 1, width, bottom=1, color=_COLORS[name], hatch=hatch)
    axis.annotate(
      f"{ratio:.2g}",
      (x, ratio),
      (0, 2 if ratio > 1 else -2),
      textcoords="offset points",
      ha="center",
      va="bottom" if ratio > 1 else "top",
      rotation=90,
      fontsize=6,
    )
