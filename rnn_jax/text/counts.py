"""How often each token occurs, and what may be predicted from that alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 2**20  # symbols looked at together: a long text is never copied whole


def blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Stretches of an array [N], each with the place where it begins."""
  for start in range(0, len(values), BLOCK):
    yield start, values[start : start + BLOCK]


def histogram(values: np.ndarray, size: int) -> np.ndarray:
  """How often each of the integers 0 … size − 1 occurs: values [N] → int64 [size]."""
  counts = np.zeros(size, np.int64)
  for _, block in blocks(values):  # bincount makes int64 of all that it is given
    counts += np.bincount(block, minlength=size)
  return counts


def entropy(counts: np.ndarray) -> float:
  """Σ p ln(1/p) in nats, p = counts / Σ counts: the loss of who knows the frequencies alone."""
  share = counts[counts > 0] / np.sum(counts)
  return float(np.sum(share * np.log(1 / share)))
