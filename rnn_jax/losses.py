"""Losses and accuracy per step, their mean over a mask's steps, and conversions of units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Integer

from rnn_jax import checks
from rnn_jax.types import AnyArray


def cross_entropy(
  logits: Float[AnyArray, "*batch V"], targets: Integer[AnyArray, "*batch"]
) -> Float[Array, "*batch"]:
  """Returns −log softmax(logits)[target], in nats.

  Args:
    logits: [..., V].
    targets: integers [...], from 0 to V − 1.
  Returns:
    Losses [...].
  Raises:
    TypeError, ValueError: if the logits are not floats, if the targets are not integers, if their
      shapes do not match, or if a target is not from 0 to V − 1.
  """
  return optax.softmax_cross_entropy_with_integer_labels(*_logits_and_targets(logits, targets))


def binary_cross_entropy(
  logits: Float[AnyArray, "*batch K"], targets: Bool[AnyArray, "*batch K"]
) -> Float[Array, "*batch"]:
  """Returns −Σ_k ln p_k, summed over K independent labels, in nats, where

    p_k = sigmoid(logit_k) if target_k else 1 − sigmoid(logit_k).

  Args:
    logits: [..., K].
    targets: booleans [..., K], any number of which are True.
  Returns:
    Losses [...].
  Raises:
    TypeError, ValueError: if the logits are not floats, if the targets are not booleans, or if
      their shapes differ.
  References:
    Boulanger-Lewandowski et al., 2012 (the notes of polyphonic music at each time step),
    https://arxiv.org/abs/1206.6392
  """
  logits = checks.array("logits", logits, "floats")
  targets = checks.array("targets", targets, "booleans")
  _check_equal_shapes("logits, [..., K]", logits, targets)
  labels = targets.astype(logits.dtype)
  return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, labels), axis=-1)


def squared_error(
  outputs: Float[AnyArray, "*batch D"], targets: Float[AnyArray, "*batch D"]
) -> Float[Array, "*batch"]:
  """Returns Σ (y − target)², summed over the last axis.

  Args:
    outputs: y, [..., D].
    targets: [..., D].
  Returns:
    Losses [...].
  Raises:
    TypeError, ValueError: if outputs or targets are not floats, or if their shapes differ.
  """
  outputs = checks.array("outputs", outputs, "floats")
  targets = checks.array("targets", targets, "floats")
  _check_equal_shapes("outputs, [..., D]", outputs, targets)
  return jnp.sum((outputs - targets) ** 2, axis=-1)


def _check_equal_shapes(what: str, outputs: Array, targets: Array) -> None:
  """Raises a ValueError unless outputs and targets have the same shape, of at least one axis."""
  if outputs.ndim == 0 or targets.shape != outputs.shape:
    raise ValueError(
      f"targets must have the shape of the {what}, got {targets.shape} and {outputs.shape}."
    )


def accuracy(
  logits: Float[AnyArray, "*batch V"], targets: Integer[AnyArray, "*batch"]
) -> Float[Array, "*batch"]:
  """Returns 1 where the largest logit is the target's, and 0 elsewhere, in the logits' dtype.

  The mean over steps, from `masked_mean`, is the share of correct answers. Of equal logits, the
  first one counts as the largest. An answer with a logit of NaN is not correct.

  Args:
    logits: [..., V].
    targets: integers [...], from 0 to V − 1.
  Returns:
    0 or 1 [...].
  Raises:
    TypeError, ValueError: as in `cross_entropy`.
  """
  logits, targets = _logits_and_targets(logits, targets)
  answers = jnp.argmax(logits, axis=-1)
  correct = (answers == targets.astype(answers.dtype)) & ~jnp.isnan(jnp.max(logits, axis=-1))
  return correct.astype(logits.dtype)


LOSSES: Mapping[str, Callable[[Array, Array], Array]] = {
  "binary_cross_entropy": binary_cross_entropy,
  "cross_entropy": cross_entropy,
  "squared_error": squared_error,
}


def _logits_and_targets(logits: AnyArray, targets: AnyArray) -> tuple[Array, Array]:
  """Checks the arguments of `cross_entropy`, and returns them as arrays."""
  logits = checks.array("logits", logits, "floats")
  targets = checks.array("targets", targets, "integers")
  if logits.ndim == 0 or logits.shape[-1] == 0 or targets.shape != logits.shape[:-1]:
    raise ValueError(
      f"targets must be [...] and logits [..., V], got {targets.shape} and {logits.shape}."
    )
  checks.tokens("targets", targets, logits.shape[-1])
  return logits, targets


def masked_mean(
  values: Float[AnyArray, "T B"],
  mask: Bool[AnyArray, "T B"],
  count: Int[AnyArray, ""] | None = None,
) -> Float[Array, ""]:
  """Returns the mean Σ mask · values / count, or 0 if the mask is False everywhere.

  Values where the mask is False add nothing, even if they are NaN. (The gradient is still NaN if
  the derivative of such a value is NaN, for example because its target is NaN.)

  Args:
    values: [T, B].
    mask: [T, B] bool, True at the steps over which the mean is taken.
    count: number of steps to divide by; Σ mask if None. If values and mask are one part of a batch,
      pass the whole batch's Σ mask, so that the results of all parts add up to the batch's mean.
  Returns:
    Scalar.
  Raises:
    TypeError, ValueError: if the values are not floats, if the mask is not bool or not of the
      values' shape, or if the count is not an integer scalar.
  """
  values, mask = checks.array("values", values, "floats"), checks.array("mask", mask, "booleans")
  if mask.shape != values.shape:
    raise ValueError(f"mask must have the shape of the values {values.shape}, got {mask.shape}.")
  total = jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)))
  count = jnp.sum(mask) if count is None else checks.array("count", count, "integers")
  if count.ndim != 0:
    raise ValueError(f"count must be a scalar, got {checks.shown(count)}.")
  return total / jnp.maximum(count.astype(values.dtype), 1)


def bits(nats: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Converts nats to bits: nats / ln 2. A character model's loss becomes bits per character."""
  return nats / math.log(2)


def perplexity(mean_cross_entropy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Returns exp(mean cross-entropy in nats): the equivalent number of equally likely choices."""
  return jnp.exp(mean_cross_entropy)
