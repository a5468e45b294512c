"""What a figure or table is: a computation, and the checks that say whether it came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.figure


class Check(NamedTuple):
  """One number against what it should be.

  Attributes:
    name: what was measured.
    measured: the number, as it came out.
    expected: what it should be, as printed: `1.7 ± 20 %`.
    met: whether it is.
  """

  name: str
  measured: float
  expected: str
  met: bool


class Outcome(NamedTuple):
  """What a figure found.

  Attributes:
    table: rows, column by column; numbers or text, a few dozen rows at most.
    checks: what decides whether the figure is reproduced: all of them must be met.
    draw: draws into an empty figure with constrained layout; the title is put there by others.
    notes: explanations that were tested, and published values beside ours, a sentence each.
  """

  table: Sequence[Mapping[str, Any]]
  checks: Sequence[Check]
  draw: Callable[[matplotlib.figure.Figure], None]
  notes: Sequence[str] = ()


class Figure(NamedTuple):
  """A figure or table that can be made again.

  Attributes:
    title: what it shows.
    setting: sizes and constants, in one line.
    source: where it was published, with its address.
    seconds: about how long it takes on two cores.
    run: computes it.
    seeds: of all that is drawn at random.
  """

  title: str
  setting: str
  source: str
  seconds: int
  run: Callable[[], Outcome]
  seeds: Sequence[int] = ()


def relative(name: str, measured: float, expected: float, tolerance: float) -> Check:
  """|measured − expected| ≤ tolerance · |expected|."""
  met = abs(measured - expected) <= tolerance * abs(expected)
  return Check(name, float(measured), f"{expected:.4g} ± {100 * tolerance:g} %", bool(met))


def absolute(name: str, measured: float, expected: float, tolerance: float) -> Check:
  """|measured − expected| ≤ tolerance."""
  met = abs(measured - expected) <= tolerance
  return Check(name, float(measured), f"{expected:.4g} ± {tolerance:g}", bool(met))


def at_most(name: str, measured: float, limit: float) -> Check:
  """Measured ≤ limit."""
  return Check(name, float(measured), f"≤ {limit:.4g}", bool(measured <= limit))


def at_least(name: str, measured: float, limit: float) -> Check:
  """Measured ≥ limit."""
  return Check(name, float(measured), f"≥ {limit:.4g}", bool(measured >= limit))
