"""Tables that are printed and written as Markdown: the summary, all cells, all estimators."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from experiments.benchmark.cases import FORWARD, GRADIENT, NORMS
from experiments.benchmark.machine import RESTRICTED, agree, describe
from experiments.benchmark.targets import Line, Measurement, Results
from experiments.cli.tables import markdown as markdown_table
from experiments.runtime import files

# The lines of the summary, first by instruction set, then by the text of the row.
Runs = Mapping[str, Mapping[str, Line]]


class Text(NamedTuple):
  """A table as text.

  Attributes:
    title: what the table shows.
    header: the columns' names.
    names: number of columns, from the left, that name a row; the others hold numbers.
    rows: the texts of each row.
  """

  title: str
  header: Sequence[str]
  names: int
  rows: Sequence[Sequence[str]]

  def rich(self) -> Table:
    """Returns the table for the screen."""
    table = Table(title=self.title, title_justify="left")
    for i, name in enumerate(self.header):
      table.add_column(name, justify="left" if i < self.names else "right")
    for row in self.rows:
      table.add_row(*row)
    return table

  def markdown(self) -> str:
    """Returns title and table in Markdown."""
    return f"{self.title}:\n\n{markdown_table(self.header, self.rows, self.names)}"


def runs(results: Results, other: Path) -> Runs:
  """Returns the lines of these results and, next to them, those of a comparable run.

  Args:
    results: the results of this run.
    other: `benchmark.json` of another run. It is ignored if it does not exist, or if its machine
      differs in more than the instruction set.
  """
  found = {results.machine["instruction_set"]: results.summary()}
  try:
    saved = files.read_json(other)
  except (OSError, ValueError):
    return found
  about = saved.get("machine")
  if isinstance(about, dict) and agree(results.machine, about):
    found.setdefault(about["instruction_set"], {k: Line(**v) for k, v in saved["summary"].items()})
  return dict(sorted(found.items(), key=lambda run: run[0] == RESTRICTED))


def summary(found: Runs, rows: Sequence[str]) -> Text:
  """Returns the summary of these rows, `CELL BxTxDxH depth N`; columns are grouped by run."""
  header = ["cell", "B×T×D×H", "depth"]
  for name in found:
    header += [f"{name}: fastest baseline / ours", "products / ours", "norms", "ours, ms"]
  texts = []
  for row in rows:
    cell, shape, _, depth = row.split()
    lines = [run.get(row) for run in found.values()]
    numbers = [text for line in lines for text in (_texts(line) if line else [""] * 4)]
    texts.append([cell, shape.replace("x", "×"), depth, *numbers])
  return Text("Times of the gradient of mean(y²), as ratios", header, 3, texts)


def _texts(line: Line) -> list[str]:
  speed = "" if line.speed is None else f"{line.speed:.2f} {line.baseline}"
  norms = f"{round(line.norms, 2) + 0.0:+.0%}"  # + 0.0 makes +0% of −0%
  return [speed, f"{line.limit:.2f}", norms, _digits(line.ours * 1e3)]


def _digits(value: float) -> str:
  """Returns a positive number with three digits, or with all digits before the point."""
  return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def ranges(found: Runs) -> list[str]:
  """Returns a sentence for each run: the ranges of the ratios of its summary."""
  sentences = []
  for name, run in found.items():
    cells = dict.fromkeys(row.split()[0] for row in run)
    speeds = {
      cell: [line.speed for row, line in run.items() if row.split()[0] == cell and line.speed]
      for cell in cells
    }
    ratios = ", ".join(f"{min(s):.2f} to {max(s):.2f} ({c})" for c, s in speeds.items() if s)
    norms = [line.norms for line in run.values()]
    limits = [line.limit for line in run.values()]
    sentences.append(
      f"{name}: fastest baseline / ours is {ratios or 'unknown'}; products / ours is "
      f"{min(limits):.2f} to {max(limits):.2f}; norms add {min(norms):.0%} to {max(norms):.0%}, "
      f"median {statistics.median(norms):.0%}."
    )
  return sentences


def every_cell(cells: Sequence[Measurement]) -> Text:
  """Returns our time of one time step, for every cell and method of `unroll`."""
  header = ("forward, µs", "forward + backward, µs", "with norms, µs", "compile, s")
  found = {(m.row.cell, m.implementation, m.measure): m for m in cells}
  rows = []
  for cell, method in dict.fromkeys((m.row.cell, m.implementation) for m in cells):
    gradient = found[cell, method, GRADIENT]
    steps = [found[cell, method, measure] for measure in (FORWARD, GRADIENT, NORMS)]
    rows.append(
      [
        cell,
        method,
        *(_digits(m.median / m.row.shape.steps * 1e6) for m in steps),
        f"{gradient.compile_seconds:.1f}",
        "" if gradient.temporaries is None else f"{gradient.temporaries / 2**20:.1f}",
      ]
    )
  title = f"One time step of every cell, one layer, {cells[0].row.shape}"
  return Text(title, ("cell", "method", *header, "temporaries, MiB"), 2, rows)


def estimators(found: Sequence[Measurement]) -> Text:
  """Returns the time of one time step and the memory, by cell, estimator and sequence length."""
  by_place = {(m.row.cell, m.implementation, m.row.shape.steps): m for m in found}
  steps = sorted({m.row.shape.steps for m in found})
  rows = []
  for cell, name in dict.fromkeys((m.row.cell, m.implementation) for m in found):
    at = [by_place[cell, name, t] for t in steps]
    memory = ["" if m.temporaries is None else f"{m.temporaries / 2**20:.2f}" for m in at]
    rows.append([cell, name, *(_digits(m.median / m.row.shape.steps * 1e6) for m in at), *memory])
  header = (f"{what}, T = {t}" for what in ("time per step, µs", "temporaries, MiB") for t in steps)
  batch, _, inputs, hidden = found[0].row.shape
  title = f"The gradient by every estimator, one layer, B = {batch}, D = {inputs}, H = {hidden}"
  return Text(title, ("cell", "estimator", *header), 2, rows)


def markdown(results: Results, found: Runs) -> str:
  """Returns the machine, the summary, its ranges, and the tables of all cells and estimators."""
  parts = [
    "\n".join(f"- {line}" for line in describe(results.machine)) + "\n",
    summary(found, list(map(str, results.limits))).markdown(),
    "\n".join(f"- {sentence}" for sentence in ranges(found)) + "\n",
  ]
  if results.cells:
    parts.append(every_cell(results.cells).markdown())
  if results.estimators:
    parts.append(estimators(results.estimators).markdown())
  return "\n".join(parts)
