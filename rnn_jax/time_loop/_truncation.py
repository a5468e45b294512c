"""Truncated backpropagation through time: the steps at which the gradient is cut."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Integer

from rnn_jax import checks
from rnn_jax.types import Size

Truncation = int | np.integer | Integer[Array, ""]


def check_truncation(truncation: object) -> None:
  """Raises unless `truncation` is an integer scalar of at least 1; a tracer may have any value."""
  if not isinstance(truncation, jax.Array):
    checks.integer("truncation", truncation)
    return
  if truncation.ndim != 0 or not jnp.issubdtype(truncation.dtype, jnp.integer):
    raise TypeError(
      f"truncation must be an integer scalar, got {truncation.dtype}{list(truncation.shape)}."
    )
  if not isinstance(truncation, jax.core.Tracer):
    checks.integer("truncation", int(truncation))


def cut_steps(
  truncation: Truncation,
  num_steps: Size,
  valid: Bool[Array, "T B"] | None,
  resets: Bool[Array, "T B"] | None,
  reverse: bool,
) -> Bool[Array, " T"] | Bool[Array, "T B"]:
  """Returns a mask of the steps at which the gradient is cut: k, 2k, 3k, … of each sequence.

  k is `truncation`, and the first step of a sequence is step 0. Skipped steps, where `valid` is
  False, are not counted. The mask is [T], or [T, B] if `valid` or `resets` are given.
  """
  if valid is not None:
    one = valid.astype(jnp.int32)
    count = jax.lax.cumsum(one, axis=0, reverse=reverse) - one  # valid steps before each step
  else:
    count = jnp.arange(num_steps, dtype=jnp.int32)
    count = count[::-1] if reverse else count
    count = count if resets is None else count[:, None]
  if resets is not None:
    start = jnp.where(resets, count, jnp.zeros_like(count))
    count = count - jax.lax.cummax(start, axis=0, reverse=reverse)
  if not isinstance(truncation, Array):
    # Every count is smaller than the largest int32, so a larger truncation cuts nothing either.
    truncation = min(int(truncation), jnp.iinfo(jnp.int32).max)
  return (count > 0) & (count % jnp.asarray(truncation, jnp.int32) == 0)
