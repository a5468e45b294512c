"""Tasks with a finite number of examples: train and test parts, and batches without repeats."""

from __future__ import annotations

from typing import Literal

import jax
from jaxtyping import Array, Int, Key

from rnn_jax import checks

Part = Literal["train", "test"]
PARTS = ("train", "test")


def check_batch_size(batch_size: int | None, num_examples: int, part: str) -> int:
  """Returns the batch size; None stands for all examples of the part.

  Raises:
    TypeError, ValueError: it is not an integer, below 1 or above the number of examples.
  """
  if batch_size is None:
    return num_examples
  checks.integer("batch_size", batch_size)
  if batch_size > num_examples:
    raise ValueError(
      f"batch_size must be at most the {num_examples} examples of part {part}, got {batch_size}."
    )
  return batch_size


def draw(key: Key[Array, ""], num_examples: int, batch_size: int) -> Int[Array, " B"]:
  """Draws the examples of a batch, without repeats: int32 indices [batch_size]."""
  # A permutation of all examples takes twenty times as long, and most of it would be discarded.
  return jax.lax.top_k(jax.random.uniform(key, (num_examples,)), batch_size)[1]
