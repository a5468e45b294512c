"""Helpers for tasks with a finite data set: the train/test split and the sampling of batches."""

from __future__ import annotations

from typing import Literal

import jax
from jaxtyping import Array, Int, Key

from rnn_jax import checks

Part = Literal["train", "test"]
PARTS = ("train", "test")


def check_batch_size(batch_size: int | None, num_examples: int, part: str) -> None:
  """Checks that a batch is not larger than the data that it is drawn from.

  Args:
    batch_size: number of examples in a batch; None for all of them.
    num_examples: number of examples in this part of the data.
    part: `train` or `test`, for the error message.
  Raises:
    TypeError: if `batch_size` is not an integer.
    ValueError: if `batch_size` is below 1 or above `num_examples`.
  """
  if batch_size is None:
    return
  checks.integer("batch_size", batch_size)
  if batch_size > num_examples:
    raise ValueError(
      f"batch_size must be at most the {num_examples} examples of part {part}, got {batch_size}."
    )


def draw(key: Key[Array, ""], num_examples: int, batch_size: int | None) -> Int[Array, " B"]:
  """Draws the indices of a batch's examples, uniformly and without repeats: int32 [B].

  Args:
    key: random key.
    num_examples: number of examples to draw from.
    batch_size: number of examples in the batch; None for all of them. If there are fewer, as there
      may be held-out ones, the batch holds all of them.
  """
  size = num_examples if batch_size is None else min(batch_size, num_examples)
  # `jax.random.permutation` would take twenty times as long, and most of it would be discarded.
  return jax.lax.top_k(jax.random.uniform(key, (num_examples,)), size)[1]
