"""Helpers for tasks: the train/test split, the sampling of examples, and masks."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

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


def draw_each(
  key: Key[Array, ""], num_examples: int, count: int, batch_size: int
) -> Int[Array, "B count"]:
  """Draws `count` of `num_examples` indices for each sequence of a batch, without repeats, int32.

  Args:
    key: random key.
    num_examples: number of indices to draw from.
    count: number of indices for each sequence, in random order.
    batch_size: B.
  """
  return jax.lax.top_k(jax.random.uniform(key, (batch_size, num_examples)), count)[1]


def last_step(num_steps: int, batch_size: int) -> Bool[Array, "T B"]:
  """Returns a mask [T, B] that is True at the last step, the only one whose loss counts."""
  return jnp.zeros((num_steps, batch_size), bool).at[-1].set(True)
