"""Measures how costs grow with the numbers of runs, time steps, hidden units and layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments.benchmark import sweep_times, timing
from experiments.benchmark.cases import Row, Shape
from experiments.benchmark.implementations import gradient_program

RUNS, STEPS, HIDDEN, LAYERS = "runs", "time steps", "hidden units", "layers"
_SECONDS = 0.5  # for timing the calls of one program
# Flags of runs that are so small that almost none of their sweep's time is training.
_TINY_RUNS = (
  *("--task=adding", "--cell=elman", "--depth=1", "--truncation=full", "--hidden_size=4"),
  *("--sequence_length=8", "--batch_size=2", "--steps=10", "--log_every=10"),
  "--compilation_cache=none",
)


class Point(NamedTuple):
  """The costs at one size.

  Attributes:
    axis: what grows: RUNS, STEPS, HIDDEN or LAYERS.
    size: the number of runs, time steps, hidden units or layers.
    seconds: time of an LSTM's gradient; for RUNS, the time of a sweep, compilation included, or
      None if it could not be measured.
    compile_seconds: time of tracing and compilation; None for RUNS.
    temporaries: bytes of memory needed in addition to arguments and results; None if unknown.
  """

  axis: str
  size: int
  seconds: float | None
  compile_seconds: float | None = None
  temporaries: int | None = None


def measure(
  runs: Sequence[int] = (36, 180, 900),
  steps: Sequence[int] = (128, 512, 2048, 8192),
  hidden: Sequence[int] = (64, 128, 256, 512, 1024),
  layers: Sequence[int] = (1, 2, 4, 8, 16),
) -> Iterator[Point]:
  """Yields the costs of sweeps of tiny runs and of LSTM gradients, as one size at a time grows.

  The gradients for growing numbers of time steps use `remat="sqrt"`. The sizes that do not grow are
  small, so that their cost does not hide that of the size that grows.
  """
  for count in runs:
    seeds = ",".join(map(str, range(count)))
    yield Point(
      RUNS, count, sweep_times.time_sweep("", [*_TINY_RUNS, f"--seed={seeds}"], 1).seconds
    )
  rows = [(STEPS, n, Row("lstm", Shape(8, n, 32, 64), 1), "sqrt") for n in steps]
  rows += [(HIDDEN, n, Row("lstm", Shape(16, 32, n, n), 1), "none") for n in hidden]
  rows += [(LAYERS, n, Row("lstm", Shape(16, 32, 32, 32), n), "none") for n in layers]
  for axis, size, row, remat in rows:
    program = gradient_program(row, remat)
    seconds = timing.fastest([program.call], _SECONDS)
    yield Point(axis, size, seconds, program.compile_seconds, program.temporaries)


def show(console: Console, points: Sequence[Point]) -> None:
  """Prints a table of all points."""
  table = Table(title="Costs as one size grows", title_justify="left")
  for column in ("what grows", "size", "time, ms", "compile, s", "temporaries, MiB"):
    table.add_column(column, justify="right")
  for point in points:
    table.add_row(
      point.axis,
      str(point.size),
      "" if point.seconds is None else f"{point.seconds * 1e3:.1f}",
      "" if point.compile_seconds is None else f"{point.compile_seconds:.1f}",
      "" if point.temporaries is None else f"{point.temporaries / 2**20:.1f}",
    )
  console.print(table)


def picture(points: Sequence[Point]) -> Figure:
  """Draws time, compile time and memory against each size, relative to the smallest size."""
  axes_of = list(dict.fromkeys(point.axis for point in points))
  figure = Figure(figsize=(2.6 * len(axes_of) + 0.4, 3.0), layout="constrained")
  lines = {"time": "seconds", "compile time": "compile_seconds", "memory": "temporaries"}
  for axis, what in zip(figure.subplots(1, len(axes_of), squeeze=False)[0], axes_of, strict=True):
    found = [point for point in points if point.axis == what]
    sizes = [point.size for point in found]
    for (label, field), color in zip(lines.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
      values = [getattr(point, field) for point in found]
      if all(values):
        axis.plot(
          sizes, [v / values[0] for v in values], marker="o", ms=3, color=color, label=label
        )
    axis.plot(sizes, [n / sizes[0] for n in sizes], "k:", lw=1, label="proportional to size")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks(sizes, [str(n) for n in sizes], fontsize=7)
    axis.set_xlabel(what, fontsize=9)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
  keys = {line.get_label(): line for axis in figure.axes for line in axis.lines}
  figure.legend(
    list(keys.values()), list(map(str, keys)), loc="outside upper center", ncols=4, frameon=False
  )
  figure.supylabel("relative to the smallest size", fontsize=9)
  return figure
