"""A search for units that keep track of something in a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_CONSTANT = 1e-5  # spread beside which values are rounding, relative to the largest of them


class Found(NamedTuple):
  """A unit whose value goes along with a feature of the text.

  Attributes:
    feature: name.
    quantity: name.
    unit: its place in the quantity, from 0.
    selection: correlation on the half of the text that it was chosen by.
    held_out: on the other half.
  """

  feature: str
  quantity: str
  unit: int
  selection: float
  held_out: float


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Pearson's correlation of every column of a with every column of b; 0 where one is constant.

    r = Σ_t (a_t − ā) (b_t − b̄) / √(Σ_t (a_t − ā)² Σ_t (b_t − b̄)²)

  Args:
    a: [T, M].
    b: [T, N].
  Returns:
    float64 [M, N], from −1 to 1.
  """
  return np.clip(_directions(a).T @ _directions(b), -1, 1)


def search(
  features: Mapping[str, np.ndarray], quantities: Mapping[str, np.ndarray], top: int = 5
) -> list[Found]:
  """The units that track each feature best, chosen on one half of the text, judged on the other.

  Of thousands of units some go along with anything by chance. So the first half chooses `top` units
  for each feature, by |r|, and the second half ranks them: by r there, of the sign that it had in
  the first. What is found by chance ends near 0, and may be negative.

  Args:
    features: [T] of each name.
    quantities: [T, units] of each name: the value that the network has after it read step t.
    top: units for each feature.
  Returns:
    For each feature in turn, the best first; none for one that is constant in either half.
  """
  names = list(features)
  values = np.stack([features[name] for name in names], axis=1)
  half = len(values) // 2
  halves = slice(None, half), slice(half, None)
  # [features, all units of all quantities]
  chosen_by, held_out = (
    np.concatenate([correlations(values[part], q[part]) for q in quantities.values()], axis=1)
    for part in halves
  )
  units = [(name, i) for name, q in quantities.items() for i in range(q.shape[1])]
  varies = [np.any(_directions(values[part]), axis=0) for part in halves]
  found = []
  for f, name in enumerate(names):
    if not (varies[0][f] and varies[1][f]):
      continue
    best = np.argsort(-np.abs(chosen_by[f]), kind="stable")[:top]
    agreement = np.sign(chosen_by[f, best]) * held_out[f, best]
    for i in best[np.argsort(-agreement, kind="stable")]:
      quantity, unit = units[i]
      found.append(Found(name, quantity, unit, float(chosen_by[f, i]), float(held_out[f, i])))
  return found


def _directions(a: np.ndarray) -> np.ndarray:
  """Columns with their mean taken off, of length 1; 0 where they are constant."""
  a = np.asarray(a, np.float64)
  if not len(a):
    return a
  centred = a - a.mean(axis=0)
  length = np.linalg.norm(centred, axis=0)
  constant = np.abs(centred).max(axis=0) <= _CONSTANT * np.abs(a).max(axis=0)
  return np.where(constant, 0, centred / np.where(constant, 1, length))
