"""Definition of a figure or table: a computation, and checks that decide if it is reproduced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import matplotlib.figure
import numpy as np

Real: TypeAlias = int | float | np.integer | np.floating


class Check(NamedTuple):
  """The comparison of one number with its expected value.

  Attributes:
    name: the quantity.
    measured: its measured value.
    expected: its expected value, as printed: `1.7 ± 20 %`.
    met: whether the measured value agrees.
  """

  name: str
  measured: float
  expected: str
  met: bool


class Outcome(NamedTuple):
  """The output of a figure.

  Attributes:
    table: rows, as values by column; numbers or text, a few dozen rows at most.
    checks: the figure is reproduced if all of them are met.
    draw: draws into an empty figure with constrained layout; the caller adds the title.
    notes: tested explanations, and published values to compare with; a paragraph each.
  """

  table: Sequence[Mapping[str, object]]
  checks: Sequence[Check]
  draw: Callable[[matplotlib.figure.Figure], None]
  notes: Sequence[str] = ()


class Figure(NamedTuple):
  """A figure or table that can be reproduced.

  Attributes:
    title: what it shows.
    setting: sizes and constants, in one line.
    source: the publication, with its address.
    seconds: approximate duration on two cores.
    run: computes it.
    seeds: the seeds of everything random.
  """

  title: str
  setting: str
  source: str
  seconds: int
  run: Callable[[], Outcome]
  seeds: Sequence[int] = ()


def relative(name: str, measured: Real, expected: int | float, tolerance: int | float) -> Check:
  """Checks |measured − expected| ≤ tolerance · |expected|."""
  met = abs(measured - expected) <= tolerance * abs(expected)
  return Check(name, float(measured), f"{expected:.4g} ± {100 * tolerance:g} %", bool(met))


def absolute(name: str, measured: Real, expected: int | float, tolerance: int | float) -> Check:
  """Checks |measured − expected| ≤ tolerance."""
  met = abs(measured - expected) <= tolerance
  return Check(name, float(measured), f"{expected:.4g} ± {tolerance:g}", bool(met))


def at_most(name: str, measured: Real, limit: int | float) -> Check:
  """Checks measured ≤ limit."""
  return Check(name, float(measured), f"≤ {limit:.4g}", bool(measured <= limit))


def at_least(name: str, measured: Real, limit: int | float) -> Check:
  """Checks measured ≥ limit."""
  return Check(name, float(measured), f"≥ {limit:.4g}", bool(measured >= limit))
