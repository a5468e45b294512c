"""Losses per step, and their mean over the steps that count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax

from rnn_jax.types import Array


def cross_entropy(logits: Array, targets: Array) -> Array:
  """−log softmax(logits)[target], in nats: logits [..., V], integer targets [...] → [...]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def squared_error(outputs: Array, targets: Array) -> Array:
  """(y − target)², summed over the last axis: [..., D], [..., D] → [...]."""
  return jnp.sum((outputs - targets) ** 2, axis=-1)


LOSSES: Mapping[str, Callable[[Array, Array], Array]] = {
  "cross_entropy": cross_entropy,
  "squared_error": squared_error,
}


def masked_mean(values: Array, mask: Array, count: Array | None = None) -> Array:
  """Σ mask · values / count, 0 where the mask is empty.

  What is masked out adds nothing, NaN included. (A gradient is NaN all the same where the masked
  value's own derivative is: a loss of a NaN target, say.)

  Args:
    values: [T, B].
    mask: [T, B] bool, the steps that count.
    count: how many count, where these are part of a larger batch, whose mean is the sum of its
      parts'; Σ mask if None.
  Returns:
    Scalar.
  """
  total = jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)))
  count = jnp.sum(mask) if count is None else count
  return total / jnp.maximum(count.astype(values.dtype), 1)


def bits(nats: Array) -> Array:
  """nats / ln 2: the same in bits, of a mean cross-entropy bits per character, say."""
  return nats / math.log(2)


def perplexity(mean_cross_entropy: Array) -> Array:
  """exp of the mean cross-entropy in nats: the number of equally likely choices it amounts to."""
  return jnp.exp(mean_cross_entropy)
