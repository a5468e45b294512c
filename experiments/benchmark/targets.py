"""The results of the benchmark, and the performance targets with which they are compared."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from experiments.benchmark.cases import GRADIENT, NORMS, Row
from experiments.benchmark.growth import Point
from experiments.benchmark.implementations import OURS
from experiments.benchmark.machine import Machine
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


class Line(NamedTuple):
  """One row of the summary.

  Attributes:
    baseline: name of the baseline with the fastest gradient; empty if there is none.
    speed: its time divided by ours; None if there is no baseline.
    limit: the dependency limit divided by our time.
    norms: the share of our time that norms add.
    ours: our median in seconds.
  """

  baseline: str
  speed: float | None
  limit: float
  norms: float
  ours: float


@dataclasses.dataclass(frozen=True)
class Measurement:
  """The times of one measure, for one implementation of a row's layers.

  Attributes:
    row: the layers: their cell, shape and depth.
    implementation: a key of `implementations.IMPLEMENTATIONS`; in `Results.cells`, a method of
      `unroll`; in `Results.estimators`, an estimator.
    measure: one of `cases.MEASURES`; in `Results.remat`, the argument `remat` of `unroll`.
    seconds: the time of each call; empty if nothing was timed.
    compile_seconds: time of tracing and compilation.
    temporaries: bytes of memory needed in addition to arguments and results; None if unknown.
    note: why nothing was timed, or how the implementation's function differs from ours; else empty.
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
    """The median of `seconds`."""
    return statistics.median(self.seconds)

  @property
  def minimum(self) -> float:
    """The minimum of `seconds`."""
    return min(self.seconds)


@dataclasses.dataclass
class Results:
  """All results of a benchmark.

  Attributes:
    machine: what the times depend on.
    layers: measurements of our layers and of the baselines' layers.
    limits: each row's dependency limit in seconds: forward pass, and forward and backward pass.
    remat: measurements of our gradient with `remat="none"` and with "sqrt"; empty if not measured.
    cells: measurements of one layer of every cell; empty if not measured.
    estimators: measurements of every gradient estimator; empty if not measured.
    growth: costs at growing sizes; empty if not measured.
    sweep: times of the reference sweep, ours and the baselines'; empty if not measured.
  """

  machine: Machine
  layers: list[Measurement] = dataclasses.field(default_factory=list)
  limits: dict[Row, tuple[float, float]] = dataclasses.field(default_factory=dict)
  remat: list[Measurement] = dataclasses.field(default_factory=list)
  cells: list[Measurement] = dataclasses.field(default_factory=list)
  estimators: list[Measurement] = dataclasses.field(default_factory=list)
  growth: list[Point] = dataclasses.field(default_factory=list)
  sweep: list[SweepTime] = dataclasses.field(default_factory=list)

  def summary(self) -> dict[str, Line]:
    """Returns the summary's lines by the text of their rows."""
    lines = {}
    for row in self.limits:
      values = {target.name: target.value for target in row_targets(self, row)}
      baseline, _ = fastest_baseline(self, row)
      ours = timed(self, row, GRADIENT)[OURS].median
      lines[str(row)] = Line(baseline, values.get(SPEED), values[LIMIT], values[COST], ours)
    return lines

  def as_json(self) -> dict[str, object]:
    """Returns all results and targets as values that `json` can write."""

    def plain(row: Row) -> dict[str, object]:
      return {"cell": row.cell, "shape": str(row.shape), "depth": row.depth}

    def measured(m: Measurement) -> dict[str, object]:
      fields = {f.name: getattr(m, f.name) for f in dataclasses.fields(m) if f.name != "row"}
      fields["peer"] = fields.pop("implementation")  # the key's name since version 0.1
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
      "summary": {row: line._asdict() for row, line in self.summary().items()},
      "layers": [measured(m) for m in self.layers],
      "dependency_limits": limits,
      "remat": [measured(m) for m in self.remat],
      "cells": [measured(m) for m in self.cells],
      "estimators": [measured(m) for m in self.estimators],
      "growth": [point._asdict() for point in self.growth],
      "sweep": [time._asdict() for time in self.sweep],
      "targets": [{**t._asdict(), "met": t.met} for t in targets],
    }


class Target(NamedTuple):
  """A performance target: a measured number, and a bound that it should satisfy.

  Attributes:
    name: the target's number, such as `P1`, and its meaning.
    value: the measured number.
    bound: the bound.
    at_least: whether the bound is a lower bound; else it is an upper bound.
    percent: whether value and bound are shown as percentages.
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

  Implementations that compute a different function from ours are left out.
  """
  return {
    m.implementation: m
    for m in results.layers
    if m.row == row and m.measure == measure and m.seconds and not m.note
  }


def fastest_baseline(results: Results, row: Row) -> tuple[str, float | None]:
  """Returns the name of the baseline with the fastest gradient, and its median seconds.

  Baselines that compute a different function from ours are ignored. Returns ("", None) if no
  baseline is left.
  """
  found = timed(results, row, GRADIENT)
  others = {name: m.median for name, m in found.items() if name != OURS}
  if not others:
    return "", None
  name = min(others, key=lambda name: others[name])
  return name, others[name]


def row_targets(results: Results, row: Row) -> list[Target]:
  """Returns the targets of one row.

  The cost of norms and the dependency limit compare the fastest calls, which other load on the
  machine affects least. The comparisons with baselines use medians, which are what users get.
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
  """Returns the targets of our sweep: its speedup over the baselines, and from a second device."""
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
