"""A search for the units of a network that track features of the text that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Values count as constant if no deviation from their mean exceeds this fraction of max |value|.
_ROUNDING = 1e-5

# Units are not ranked if the largest of their correlations is expected to exceed this by chance.
_CHANCE = 0.2


class Match(NamedTuple):
  """A unit whose value correlates with a feature of the text.

  Attributes:
    feature: name of the feature.
    quantity: name of the quantity that the unit belongs to, such as `layer 1 hidden`.
    unit: index of the unit within the quantity, from 0.
    selection: correlation on the half of the text on which the unit was selected.
    held_out: correlation on the other half.
  """

  feature: str
  quantity: str
  unit: int
  selection: float
  held_out: float


def correlations(
  a: Float[np.ndarray, "T M"], b: Float[np.ndarray, "T N"]
) -> Float[np.ndarray, "M N"]:
  """Returns Pearson's correlation of each pair of columns of a and b; 0 if either is constant.

  r = Σ_t (a_t − ā) (b_t − b̄) / √(Σ_t (a_t − ā)² Σ_t (b_t − b̄)²)
  """
  return np.clip(_directions(a).T @ _directions(b), -1, 1)


def fewest_tokens(units: int) -> int:
  """Returns the smallest number of tokens on which the search tells a unit from chance.

  Over n independent samples, artanh(r) of an independent unit is normal with variance 1 / (n − 3)
  (Fisher, 1921). One of H units is expected to exceed z standard deviations in either direction for
  z = Φ⁻¹(1 − 1/(2H)). Each half of the text must have enough tokens that artanh(0.2) is at least z
  standard deviations. Tokens are not independent, so r may still be larger by chance on a text of
  few more tokens than these.

  Args:
    units: H, number of units.
  """
  z = NormalDist().inv_cdf(1 - 1 / (2 * max(units, 2)))
  return 2 * math.ceil(3 + (z / math.atanh(_CHANCE)) ** 2)


def search(
  features: Mapping[str, Float[np.ndarray, " T"]],
  quantities: Mapping[str, Float[np.ndarray, "T _"]],
  top: int = 5,
) -> list[Match]:
  """Returns the units that best track each feature of a text.

  Among thousands of units, some correlate with any feature by chance. So the `top` units for each
  feature are selected by |r| on the first half of the text, and ranked by the product of r on the
  second half and the sign of r on the first. For a chance correlation, this product is close to 0
  or negative.

  Args:
    features: values of each feature.
    quantities: for each quantity, the values of its units after the token at step t was read.
    top: number of units for each feature.
  Returns:
    The matches, feature by feature, with the best unit of each feature first. A feature that is
    constant on one of the halves has no match.
  """
  names = list(features)
  if not names:
    return []
  values = np.stack([features[name] for name in names], axis=1)
  half = len(values) // 2
  halves = slice(None, half), slice(half, None)
  # Both arrays are [features, all units of all quantities].
  selection, held_out = (
    np.concatenate([correlations(values[part], q[part]) for q in quantities.values()], axis=1)
    for part in halves
  )
  units = [(name, i) for name, q in quantities.items() for i in range(q.shape[1])]
  varies = [np.any(_directions(values[part]), axis=0) for part in halves]
  matches = []
  for f, name in enumerate(names):
    if not (varies[0][f] and varies[1][f]):
      continue
    best = np.argsort(-np.abs(selection[f]), kind="stable")[:top]
    agreement = np.sign(selection[f, best]) * held_out[f, best]
    for i in best[np.argsort(-agreement, kind="stable")]:
      quantity, unit = units[i]
      matches.append(Match(name, quantity, unit, float(selection[f, i]), float(held_out[f, i])))
  return matches


def _directions(a: Float[np.ndarray, "T M"]) -> Float[np.ndarray, "T M"]:
  """Returns each column, centered and scaled to length 1; zeros if the column is constant."""
  a = np.asarray(a, np.float64)
  if not len(a):
    return a
  centered = a - a.mean(axis=0)
  length = np.linalg.norm(centered, axis=0)
  constant = np.abs(centered).max(axis=0) <= _ROUNDING * np.abs(a).max(axis=0)
  return np.where(constant, 0, centered / np.where(constant, 1, length))
