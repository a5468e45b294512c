"""Times of a row's layers: ours and the baselines', whose results are first compared with ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from experiments.benchmark import cases, implementations, timing
from experiments.benchmark.cases import (
  FORWARD,
  GRADIENT,
  MEASURES,
  NORMS,
  TRAINING,
  Implementation,
  Row,
  Shape,
)
from experiments.benchmark.implementations import OURS
from experiments.benchmark.jax_baselines import NotAvailable
from experiments.benchmark.targets import Measurement

REMAT_ROW = Row("lstm", Shape(8, 4096, 128, 128), 1)
TOLERANCE = 1e-4  # largest accepted `difference` of a baseline's float32 results from ours

# The measures of a group are timed together, interleaved. Each group has a budget of seconds.
_GROUPS = ((FORWARD,), (GRADIENT, NORMS), (TRAINING,))
SECONDS = {FORWARD: 0.5, GRADIENT: 2.4, TRAINING: 0.6}  # per row, for all implementations together
QUICK_SECONDS = {FORWARD: 0.4, GRADIENT: 1.5, TRAINING: 0.4}
# So that the benchmark takes only a quarter of an hour, the default table has large rows at depth 1
# only. For large rows and rows with a depth above 1, only the gradient is timed, with and without
# norms.
_LARGE = 1e11


def measure(row: Row, names: Sequence[str], seconds: dict[str, float]) -> Iterator[Measurement]:
  """Compares the results of all implementations with ours, then times them interleaved.

  Args:
    row: the layers: their cell, shape and depth.
    names: names of the implementations, ours first.
    seconds: the time budget of each group of measures; the key is the group's first measure.
  Yields:
    One measurement for each implementation and measure. For an implementation that cannot be timed,
    a single measurement without times, whose note gives the reason.
  """
  ready: dict[str, Implementation] = {}
  notes: dict[str, str] = {}
  for name, built in _compared(row, names):
    if isinstance(built, Implementation):
      ready[name] = built
      notes[name] = built.other and f"different function: {built.other}"
    else:
      yield Measurement(row, name, GRADIENT, note=built)

  for group in _GROUPS:
    programs = {
      (name, measure): implementation.programs[measure]
      for name, implementation in ready.items()
      for measure in group
      if measure in implementation.programs
    }
    if not programs:
      continue
    calls = {key: program.call for key, program in programs.items()}
    times = timing.interleave(calls, seconds[group[0]])
    for (name, measure), program in programs.items():
      yield Measurement(
        row,
        name,
        measure,
        times[name, measure],
        program.compile_seconds,
        program.temporaries,
        notes[name],
      )


def _compared(row: Row, names: Sequence[str]) -> Iterator[tuple[str, Implementation | str]]:
  """Yields each name with its implementation, or with the reason it cannot be timed.

  An implementation must give our results to be timed, unless it is marked as computing a different
  function (`Implementation.other`).
  """
  params, xs = cases.data(row)
  measures = (GRADIENT, NORMS) if is_large(row) or row.depth > 1 else MEASURES
  reference: list[PyTree] = []
  for name in names:
    try:
      built = implementations.build(name, row, params, xs, measures)
    except NotAvailable as reason:
      yield name, str(reason)
      continue
    results = {measure: program.call() for measure, program in built.programs.items()}
    found: list[PyTree] = [built.gradients(results[GRADIENT])]
    if FORWARD in results:
      found.append(built.ys(results[FORWARD]))
    if name == OURS:
      reference = found
    error = difference(found, reference)
    if built.other or error <= TOLERANCE:
      yield name, built
    else:
      yield name, f"differs from ours by {error:.1g}, not timed"


def measure_remat() -> list[Measurement]:
  """Times our gradient over 4096 steps, with and without rematerialization."""
  programs = {
    remat: implementations.gradient_program(REMAT_ROW, remat) for remat in ("none", "sqrt")
  }
  calls = {name: program.call for name, program in programs.items()}
  for call in calls.values():
    call()
  times = timing.interleave(calls, SECONDS[GRADIENT])
  return [
    Measurement(REMAT_ROW, OURS, name, times[name], p.compile_seconds, p.temporaries)
    for name, p in programs.items()
  ]


def difference(found: PyTree, reference: PyTree) -> float:
  """Returns the largest relative Euclidean distance ‖a − b‖ / ‖b‖ between two pytrees' leaves."""
  leaves = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
  # np.max keeps NaN, which Python's max may drop.
  return float(np.max([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in leaves]))


def is_large(row: Row) -> bool:
  """Returns whether forward and backward pass take more floating-point operations than _LARGE."""
  return 3 * cases.flops_per_step(row) * row.shape.steps > _LARGE
