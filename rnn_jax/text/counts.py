"""Token counts, and the entropy of their distribution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Integer, Shaped

BLOCK = 2**20  # symbols per block; a long text is processed in blocks, never copied whole


def blocks(
  values: Shaped[np.ndarray, " N"],
) -> Iterator[tuple[int, Shaped[np.ndarray, " block"]]]:
  """Yields (start index, block) for consecutive blocks of an array [N], `BLOCK` symbols each."""
  for start in range(0, len(values), BLOCK):
    yield start, values[start : start + BLOCK]


def histogram(values: Integer[np.ndarray, " N"], size: int) -> Int[np.ndarray, " size"]:
  """Returns how often each of the integers 0 … size − 1 occurs: values [N] → int64 [size]."""
  counts = np.zeros(size, np.int64)
  for _, block in blocks(values):  # in blocks, since bincount copies its input to int64
    counts += np.bincount(block, minlength=size)
  return counts


def entropy(counts: Shaped[np.ndarray, " V"]) -> float:
  """Returns the entropy Σ p ln(1/p) in nats, where p = counts / Σ counts.

  This is the mean cross-entropy of a model that always predicts these frequencies.
  """
  share = counts[counts > 0] / np.sum(counts)
  return float(np.sum(share * np.log(1 / share)))
