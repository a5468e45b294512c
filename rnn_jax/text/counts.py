"""Token counts, and the entropy of their distribution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Integer, Shaped

BLOCK = 2**20  # symbols per block: a long text is never copied as a whole


def blocks(
  values: Shaped[np.ndarray, " N"],
) -> Iterator[tuple[int, Shaped[np.ndarray, " block"]]]:
  """Yields consecutive blocks of an array [N], each with the index at which it starts."""
  for start in range(0, len(values), BLOCK):
    yield start, values[start : start + BLOCK]


def histogram(values: Integer[np.ndarray, " N"], size: int) -> Int[np.ndarray, " size"]:
  """Returns how often each of the integers 0 … size − 1 occurs: values [N] → int64 [size]."""
  counts = np.zeros(size, np.int64)
  for _, block in blocks(values):  # bincount converts its whole input to int64
    counts += np.bincount(block, minlength=size)
  return counts


def entropy(counts: Shaped[np.ndarray, " V"]) -> float:
  """Returns Σ p ln(1/p) in nats, p = counts / Σ counts.

  It is the mean cross-entropy of a model that knows the frequencies alone.
  """
  share = counts[counts > 0] / np.sum(counts)
  return float(np.sum(share * np.log(1 / share)))
