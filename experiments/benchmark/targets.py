"""The results of the benchmark, and the performance targets they are compared with."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

from experiments.benchmark.cases import GRADIENT, NORMS, Row
from experiments.benchmark.implementations import OURS
from experiments.benchmark.sweep_times import (
  LINEN,
  ONE,
  OURS_20,
  OURS_EVERY,
  PINNED,
  TORCH_20,
  TORCH_EVERY,
  TWO,
  SweepTime,
)


class Machine(TypedDict):
  """What the times depend on; the keys are those of `benchmark.json`."""

  versions: Mapping[str, str]
  device: str
  cpu: str
  threads: int
  load_average: tuple[float, float, float]
  GLIBC_TUNABLES: str | None
  matmul_precision: str


@dataclasses.dataclass(frozen=True)
class Measurement:
  """The times of one implementation, row and measure.

  Attributes:
    row: which layers.
    implementation: a key of `implementations.IMPLEMENTATIONS`, or a method of `unroll`.
    measure: one of `cases.MEASURES`, or a value of `unroll`'s `remat`.
    seconds: the time of every call; empty if it was not timed.
    compile_seconds: time of tracing and compilation.
    temporaries: bytes; None if unknown.
    note: why it was not timed, or how its function differs from ours; empty otherwise.
  """

  row: Row
  implementation: str
  measure: str
  seconds: Sequence[float] = ()
  compile_seconds: float = 0.0
  temporaries: int | None = None
  note: str = ""

  @property
  def median(self) -> float:
    """Median of the seconds."""
    return statistics.median(self.seconds)

  @property
  def minimum(self) -> float:
    """Minimum of the seconds."""
    return min(self.seconds)


@dataclasses.dataclass
class Results:
  """All results of a benchmark.

  Attributes:
    machine: versions, device, threads, load.
    layers: measurements of our layers and the baselines'.
    limits: seconds of the dependency limit by row: forward, and forward and backward.
    remat: our gradient with `remat="none"`, then "sqrt"; empty if not measured.
    cells: one layer of every cell, by method of `unroll`; empty if not measured.
    sweep: times of the reference sweep; empty if not measured.
  """

  machine: Machine
  layers: list[Measurement] = dataclasses.field(default_factory=list)
  limits: dict[Row, tuple[float, float]] = dataclasses.field(default_factory=dict)
  remat: list[Measurement] = dataclasses.field(default_factory=list)
  cells: list[Measurement] = dataclasses.field(default_factory=list)
  sweep: list[SweepTime] = dataclasses.field(default_factory=list)

  def as_json(self) -> dict[str, object]:
    """Returns everything in plain types."""

    def plain(row: Row) -> dict[str, object]:
      return {"cell": row.cell, "shape": str(row.shape), "depth": row.depth}

    def measured(m: Measurement) -> dict[str, object]:
      fields = {f.name: getattr(m, f.name) for f in dataclasses.fields(m) if f.name != "row"}
      fields["peer"] = fields.pop("implementation")  # the key of earlier files
      times = {"median": m.median, "minimum": m.minimum} if m.seconds else {}
      return {**plain(m.row), **fields, **times}

    limits = [
      {**plain(row), "forward": forward, "gradient": gradient}
      for row, (forward, gradient) in self.limits.items()
    ]
    targets = [t for row in self.limits for t in row_targets(self, row)]
    targets += remat_targets(self) + sweep_targets(self)
    return {
      "machine": dict(self.machine),
      "layers": [measured(m) for m in self.layers],
      "dependency_limits": limits,
      "remat": [measured(m) for m in self.remat],
      "cells": [measured(m) for m in self.cells],
      "sweep": [time._asdict() for time in self.sweep],
      "targets": [{**t._asdict(), "met": t.met} for t in targets],
    }


class Target(NamedTuple):
  """A measured number and its bound.

  Attributes:
    name: begins with the target's number, `P1`.
    value: the number as measured.
    bound: what it is compared with.
    at_least: whether the bound is a lower bound; else it is an upper bound.
    percent: whether both are shown as percentages.
  """

  name: str
  value: float
  bound: float
  at_least: bool = True
  percent: bool = False

  @property
  def met(self) -> bool:
    """Whether the value satisfies the bound."""
    return self.value >= self.bound if self.at_least else self.value <= self.bound


SPEED = "P1 speed"
COST = "P2 cost of norms"
LOOP = "P2 torch loop"
MEMORY = "P5 memory of norms"
LIMIT = "P7 dependency limit"
_LOOP_BOUNDS = {"16x100x32x64": 5.0, "32x128x128x128": 2.0}


def timed(results: Results, row: Row, measure: str) -> dict[str, Measurement]:
  """Returns a row's timed measurements of one measure, by implementation.

  Implementations of another function than ours are left out.
  """
  return {
    m.implementation: m
    for m in results.layers
    if m.row == row and m.measure == measure and m.seconds and not m.note
  }


def fastest_baseline(results: Results, row: Row) -> tuple[str, float | None]:
  """Returns the baseline that computes our function fastest, and its median seconds.

  Without any, returns "" and None.
  """
  found = timed(results, row, GRADIENT)
  others = {name: m.median for name, m in found.items() if name != OURS}
  if not others:
    return "", None
  name = min(others, key=lambda name: others[name])
  return name, others[name]


def row_targets(results: Results, row: Row) -> list[Target]:
  """Returns the targets of a row of layers.

  Small differences and the dependency limit compare the fastest calls, which other load affects
  least. The comparison with baselines is of medians, which is what users get.
  """
  gradients, with_norms = timed(results, row, GRADIENT), timed(results, row, NORMS)
  ours, norms = gradients[OURS], with_norms[OURS]
  targets = [
    Target(COST, norms.minimum / ours.minimum - 1, 0.03, at_least=False, percent=True),
    Target(LIMIT, results.limits[row][1] / ours.minimum, 0.8),
  ]
  if ours.temporaries and norms.temporaries:
    share = norms.temporaries / ours.temporaries - 1
    targets.append(Target(MEMORY, share, 0.02, at_least=False, percent=True))
  _, baseline = fastest_baseline(results, row)
  if baseline is not None:
    targets.append(Target(SPEED, baseline / ours.median, 1.3))
  loops = [m.median for name, m in with_norms.items() if name != OURS]
  if loops and str(row.shape) in _LOOP_BOUNDS:
    targets.append(Target(LOOP, min(loops) / norms.median, _LOOP_BOUNDS[str(row.shape)]))
  return targets


def remat_targets(results: Results) -> list[Target]:
  """Returns the targets for the memory that `remat="sqrt"` saves and the time it costs."""
  if not results.remat:
    return []
  plain, sqrt = results.remat
  if not (plain.temporaries and sqrt.temporaries):
    return []
  share = sqrt.temporaries / plain.temporaries
  return [
    Target("P6 memory of remat sqrt / none", share, 0.1, at_least=False, percent=True),
    Target("P6 time of remat sqrt / none", sqrt.median / plain.median, 1.35, at_least=False),
  ]


def sweep_targets(results: Results) -> list[Target]:
  """Returns the targets of our sweep: against the baselines', and two devices against one."""
  times = {time.name: time for time in results.sweep if time.seconds is not None}
  targets = []
  for name, slow, fast, field, bound in (
    ("P3 torch / ours, norms every step", TORCH_EVERY, OURS_EVERY, "seconds", 5.0),
    ("P3 torch / ours, norms every 20 steps", TORCH_20, OURS_20, "seconds", 3.0),
    ("P3 flax linen without norms / ours every 20 steps", LINEN, OURS_20, "seconds", 2.0),
    ("P4 1 / 2 devices, training alone", ONE, TWO, "training", 1.9),
    ("P4 1 device on 1 core / 2 devices, training alone", PINNED, TWO, "training", 1.9),
  ):
    if slow in times and fast in times:
      ratio = getattr(times[slow], field) / getattr(times[fast], field)
      targets.append(Target(name, ratio, bound))
  return targets
