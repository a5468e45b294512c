"""Adaptive truncation: the shortest reach of the gradient whose bias is small enough."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.types import Array

_LN10 = math.log(10)


def choose_truncation(profile: Any, tolerance: float | Array) -> Array:
  """The least k that cuts off, by the measured decay, at most a share of what it keeps.

    φ_k = E ‖∂L_s/∂h_{s−k}‖      measured at lags k = 0 … T−1
    ln φ_k ≈ a + k ln β          least-squares line through the later half of them
    E(k) = Σ_{k ≤ j < T} φ_j + e^a β^T / (1 − β)      δ(k) = E(k) / Σ_{j<k} φ_j
    k = min {k < T : δ(k) ≤ tolerance},      T where there is none

  A gradient that reaches back k − 1 steps has the lags below k; E(k) is what it lacks: what was
  measured, and beyond it the line. Lags where φ is exactly zero are not part of the line, and with
  less than two that are not there is nothing beyond. No k is long enough where the norms do not
  decay, β ≥ 1; nor where one is not finite, or all are zero.

  Convention: all leaves of the profile are one vector, of all layers and of an LSTM's hidden and
  cell state; φ is the arithmetic mean over examples and positions, in the logarithm, so that norms
  far outside the float range do no harm. Norms add up as if all lags pointed the same way: δ
  compares what is cut off with what is kept, before anything cancels.

  Cost: O(T).

  Args:
    profile: as from `lag_profile`: pytree of log₁₀ norms, leaves [T, ...] with the lag on the first
      axis, T at least 2.
    tolerance: largest δ, above 0 and below 1; a number or a traced scalar.
  Returns:
    k, int32 scalar, from 1 to T.
  Raises:
    TypeError, ValueError: a tolerance out of range, or a profile of less than two lags.
  References:
    Aicher, Foti and Fox, 2019, https://arxiv.org/abs/1905.07473
  """
  checks.number("tolerance", tolerance, above=0)
  if not isinstance(tolerance, jax.core.Tracer) and tolerance >= 1:
    raise ValueError(f"tolerance must be below 1, got {tolerance}.")
  leaves = jax.tree.leaves(profile)
  num_lags = leaves[0].shape[0]
  if num_lags < 2:
    raise ValueError(f"profile must have at least two lags, got {num_lags}.")

  # ln of the joint norm of the leaves, and of its mean over all that is not a lag.
  squares = jnp.stack([2 * _LN10 * leaf.reshape(num_lags, -1) for leaf in leaves])
  joint = jax.nn.logsumexp(squares, axis=0) / 2
  phi = jax.nn.logsumexp(joint, axis=1) - math.log(joint.shape[1])

  decays, beyond = _beyond(phi, num_lags // 2)
  kept = jax.lax.cumlogsumexp(phi)[:-1]
  lacking = jnp.logaddexp(jax.lax.cumlogsumexp(phi, reverse=True)[1:], beyond)
  delta = lacking - kept
  fine = delta <= jnp.log(jnp.asarray(tolerance, phi.dtype))
  fine = fine & decays & jnp.all(phi < jnp.inf)
  return jnp.where(jnp.any(fine), 1 + jnp.argmax(fine), num_lags).astype(jnp.int32)


def _beyond(phi: Array, start: int) -> tuple[Array, Array]:
  """Whether ln φ [T] falls from `start` on, and the ln of the line's sum from lag T to infinity."""
  later = phi[start:]
  counts = jnp.isfinite(later)
  lags = jnp.arange(start - len(phi), 0, dtype=phi.dtype)  # from lag T
  number = jnp.sum(counts, dtype=phi.dtype)

  def mean(values: Array) -> Array:
    return jnp.sum(jnp.where(counts, values, jnp.zeros_like(values))) / jnp.maximum(number, 1)

  from_mean = lags - mean(lags)
  slope = mean(from_mean * later) / mean(from_mean**2)
  at_end = mean(later) - slope * mean(lags)
  alone = number < 2
  beyond = jnp.where(alone, -jnp.inf, at_end - jnp.log(-jnp.expm1(slope)))
  return alone | (slope < 0), beyond
