"""The definition of a figure: a computation, and checks that decide whether it is reproduced.

In this package a figure is any known result that can be reproduced, a published table included.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import matplotlib.figure
import numpy as np

Real: TypeAlias = int | float | np.integer | np.floating


class Check(NamedTuple):
  """The comparison of one number with its expected value.

  Attributes:
    name: description of the quantity that is compared.
    measured: its measured value.
    expected: its expected value with the tolerance, as text: `1.7 ± 20 %`.
    met: whether the measured value is within the tolerance.
  """

  name: str
  measured: float
  expected: str
  met: bool


class Outcome(NamedTuple):
  """The outcome of computing a figure.

  Attributes:
    table: rows, each a mapping from column names to numbers or text; a few dozen rows at most.
    checks: comparisons with expected values; the figure is reproduced if all of them are met.
    draw: function that draws the picture into an empty matplotlib figure with constrained layout;
      the caller adds the title.
    notes: paragraphs on tested explanations of a missed check, or on published values to compare.
  """

  table: Sequence[Mapping[str, object]]
  checks: Sequence[Check]
  draw: Callable[[matplotlib.figure.Figure], None]
  notes: Sequence[str] = ()


class Figure(NamedTuple):
  """A figure or table that can be reproduced.

  Attributes:
    title: what the figure shows, in one line.
    setting: sizes and constants of the experiment, in one line.
    source: the publication, with its address.
    seconds: approximate duration on two CPU cores.
    run: function that computes the figure.
    seeds: seeds of all random numbers.
  """

  title: str
  setting: str
  source: str
  seconds: int
  run: Callable[[], Outcome]
  seeds: Sequence[int] = ()


def relative(name: str, measured: Real, expected: int | float, tolerance: int | float) -> Check:
  """Returns the check that |measured − expected| ≤ tolerance · |expected|."""
  met = abs(measured - expected) <= tolerance * abs(expected)
  return Check(name, float(measured), f"{expected:.4g} ± {100 * tolerance:g} %", bool(met))


def absolute(name: str, measured: Real, expected: int | float, tolerance: int | float) -> Check:
  """Returns the check that |measured − expected| ≤ tolerance."""
  met = abs(measured - expected) <= tolerance
  return Check(name, float(measured), f"{expected:.4g} ± {tolerance:g}", bool(met))


def at_most(name: str, measured: Real, limit: int | float) -> Check:
  """Returns the check that measured ≤ limit."""
  return Check(name, float(measured), f"≤ {limit:.4g}", bool(measured <= limit))


def at_least(name: str, measured: Real, limit: int | float) -> Check:
  """Returns the check that measured ≥ limit."""
  return Check(name, float(measured), f"≥ {limit:.4g}", bool(measured >= limit))


def shrinks(name: str, distances: Mapping[int, float]) -> Check:
  """Returns the check that the distance shrinks from each size to the next larger one."""
  ratio = max(large / small for small, large in itertools.pairwise(distances.values()))
  return at_most(f"{name}, largest ratio of a size to the next smaller one", ratio, 1)
