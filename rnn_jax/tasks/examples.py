"""Examples of which there is a limited number: their parts, and batches of different ones."""

from __future__ import annotations

from typing import Literal

import jax

from rnn_jax import checks
from rnn_jax.types import Array

Part = Literal["train", "test"]
PARTS = ("train", "test")


def check_batch_size(batch_size: int | None, num_examples: int, part: str) -> int:
  """The batch size, which may be all of a part.

  Raises:
    TypeError, ValueError: it is no integer, below 1 or above the number of examples.
  """
  if batch_size is None:
    return num_examples
  checks.integer("batch_size", batch_size)
  if batch_size > num_examples:
    raise ValueError(
      f"batch_size must be at most the {num_examples} examples of part {part}, got {batch_size}."
    )
  return batch_size


def draw(key: Array, num_examples: int, batch_size: int) -> Array:
  """Which examples make a batch: int32 [batch_size], different ones."""
  # A permutation, of which most is thrown away, takes twenty times as long.
  return jax.lax.top_k(jax.random.uniform(key, (num_examples,)), batch_size)[1]
