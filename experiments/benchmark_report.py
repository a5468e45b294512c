"""What the benchmark shows: a table a row, the targets, a picture, and everything as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments import peers
from experiments.peers import FORWARD, GRADIENT, MEASURES, NORMS, TRAINING, Row


@dataclasses.dataclass(frozen=True)
class Measurement:
  """One candidate at one row and measure.

  Attributes:
    row: which layers.
    peer: which library, a key of `peers.PEERS`.
    measure: what, one of `peers.MEASURES`.
    seconds: of every call; empty if it was not timed.
    compile_seconds: tracing and compilation.
    temporaries: bytes; None where it is not known.
    note: why it was not timed, or what to know; empty for nothing.
  """

  row: Row
  peer: str
  measure: str
  seconds: Sequence[float] = ()
  compile_seconds: float = 0.0
  temporaries: int | None = None
  note: str = ""

  @property
  def median(self) -> float:
    """Seconds."""
    return statistics.median(self.seconds)

  @property
  def minimum(self) -> float:
    """Seconds."""
    return min(self.seconds)


@dataclasses.dataclass
class Results:
  """All that was measured.

  Attributes:
    machine: versions, device, threads, load.
    layers: the measurements.
    limits: by row, seconds of the dependency limit: forward, and forward and backward.
  """

  machine: Mapping[str, Any]
  layers: list[Measurement]
  limits: dict[Row, tuple[float, float]]

  def as_json(self) -> dict[str, Any]:
    """Everything, in plain types."""

    def plain(row: Row) -> dict[str, Any]:
      return {"cell": row.cell, "shape": str(row.shape), "depth": row.depth}

    layers = [
      {
        **plain(m.row),
        **{k: v for k, v in dataclasses.asdict(m).items() if k != "row"},
        "median": m.median if m.seconds else None,
        "minimum": m.minimum if m.seconds else None,
      }
      for m in self.layers
    ]
    limits = [
      {**plain(row), "forward": forward, "gradient": gradient}
      for row, (forward, gradient) in self.limits.items()
    ]
    return {"machine": dict(self.machine), "layers": layers, "dependency_limits": limits}


def print_machine(console: Console, machine: Mapping[str, Any]) -> None:
  """What the numbers depend on."""
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  load = ", ".join(f"{value:.2f}" for value in machine["load_average"])
  console.print(f"{versions}\n{machine['device']} ({machine['cpu']}), {machine['threads']} threads,")
  console.print(f"load {load}, products in precision {machine['matmul_precision']}")
  if machine["GLIBC_TUNABLES"]:
    console.print(f"GLIBC_TUNABLES={machine['GLIBC_TUNABLES']}")


def print_row(
  console: Console, row: Row, measurements: Sequence[Measurement], limit: tuple[float, float]
) -> None:
  """The table of one row: a line a candidate."""
  found = {(m.peer, m.measure): m for m in measurements if m.seconds}
  ours = found["ours", GRADIENT]
  operations = 3 * peers.flops_per_step(row) * row.shape.steps
  table = Table(
    title=f"{row}: dependency limit {limit[0] * 1e3:.2f} ms forward, {limit[1] * 1e3:.2f} ms both",
    title_justify="left",
  )
  table.add_column("candidate")
  columns = (
    "forward ms",
    "+ backward ms",
    "min ms",
    "× ours",
    "compile s",
    "MiB",
    "µs/step",
    "GFLOP/s",
    "of limit",
    "+ norms ms",
    "training ms",
  )
  for name in columns:
    table.add_column(name, justify="right")
  table.add_column("note")
  for peer in dict.fromkeys(m.peer for m in measurements):
    note = next((m.note for m in measurements if m.peer == peer), "")
    at = {measure: found.get((peer, measure)) for measure in MEASURES}
    gradient = at[GRADIENT]
    if gradient is None:
      table.add_row(peer, *[""] * len(columns), note)
      continue
    memory = gradient.temporaries
    table.add_row(
      peer,
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
      style="bold" if peer == "ours" else None,
    )
  console.print(table)


def _ms(measurement: Measurement | None) -> str:
  return "" if measurement is None else f"{measurement.median * 1e3:.2f}"


def print_summary(console: Console, results: Results) -> None:
  """The targets."""


def picture(results: Results) -> Figure:
  """Time of forward and backward relative to ours: a panel a cell, a group of bars a row."""
  return Figure()
