"""Baseline losses of tasks: the loss of a model that knows only how often each answer occurs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, Shaped


def guess_entropy(counts: Shaped[np.ndarray, "positions answers"]) -> float:
  """Returns the mean cross-entropy of predicting each position's empirical answer frequencies.

    H = −Σ_sa n_sa ln(n_sa / Σ_a n_sa) / Σ_sa n_sa,  in nats,  for positions s and answers a

  Args:
    counts: n, [positions, answers], how often each answer occurs at each position, as counts or
      as relative frequencies.
  Raises:
    ValueError: if `counts` is not a matrix.
  """
  from scipy import special  # imported here because it takes a quarter of a second

  n = np.asarray(counts, np.float64)
  if n.ndim != 2:
    raise ValueError(f"counts must be [positions, answers], got {list(n.shape)}.")
  terms = special.rel_entr(n, n.sum(axis=1, keepdims=True))  # n ln(n / Σ_a n) ≤ 0
  return float(np.sum(np.abs(terms)) / n.sum())


def count_answers(
  positions: Integer[np.ndarray, "*examples"],
  answers: Integer[np.ndarray, "*examples"],
  num_positions: int,
  num_answers: int,
) -> Integer[np.ndarray, "positions answers"]:
  """Returns how often each answer occurs at each position, int64 [num_positions, num_answers].

  Args:
    positions: indices from 0 to num_positions − 1, e.g. time steps.
    answers: the answer at each of these positions, from 0 to num_answers − 1, in the shape of
      `positions`.
    num_positions: number of rows.
    num_answers: number of columns.
  Raises:
    ValueError: if `positions` and `answers` differ in shape.
  """
  if np.shape(positions) != np.shape(answers):
    raise ValueError(
      f"positions must have the shape of answers, {list(np.shape(answers))}, got "
      f"{list(np.shape(positions))}."
    )
  both = np.ravel(positions).astype(np.int64) * num_answers + np.ravel(answers)
  counts = np.bincount(both, minlength=num_positions * num_answers)
  return counts.reshape(num_positions, num_answers)
