"""Adaptive truncation: the shortest truncation whose bias is small enough."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from rnn_jax import checks
from rnn_jax.types import AnyArray

_LN10 = math.log(10)


def choose_truncation(profile: PyTree[AnyArray], tolerance: float | AnyArray) -> Int[Array, ""]:
  """Returns the least k that cuts off, by the measured decay, at most a share of what it keeps.

    φ_k = E ‖∂L_s/∂h_{s−k}‖      measured at lags k = 0 … T−1
    ln φ_k ≈ a + k ln β          least-squares line through the later half of them
    E(k) = Σ_{k ≤ j < T} φ_j + e^a β^T / (1 − β)      δ(k) = E(k) / Σ_{j<k} φ_j
    k = min {k < T : δ(k) ≤ tolerance},      T if there is none

  A gradient that reaches back k − 1 steps has the lags below k; E(k) is what it lacks: the measured
  lags from k on, and the line beyond them. Lags where φ is exactly zero are left out of the line;
  with fewer than two others, nothing is added beyond the measured lags. k is T where the norms do
  not decay (β ≥ 1), where one of them is not finite, and where all are zero.

  Convention: all leaves of the profile count as one vector, over all layers and an LSTM's hidden
  and cell state. φ is the arithmetic mean over examples and positions, taken in the logarithm, so
  norms far outside the float range do no harm. Norms are added as if all lags pointed the same way:
  δ compares what is cut off with what is kept, before anything cancels.

  Cost: O(T).

  Args:
    profile: from `lag_profile`: pytree of log₁₀ norms, leaves [T, ...] with the lag on the first
      axis, T at least 2.
    tolerance: largest δ, above 0 and below 1; a number or a traced scalar.
  Returns:
    k, int32 scalar, from 1 to T.
  Raises:
    TypeError, ValueError: a tolerance out of range, or a profile of fewer than two lags.
  References:
    Aicher, Foti and Fox, 2019, https://arxiv.org/abs/1905.07473
  """
  checks.number("tolerance", tolerance, above=0, below=1)
  leaves = [checks.array("profile", leaf, "floats") for leaf in jax.tree.leaves(profile)]
  num_lags = _check_lags(leaves)

  # ln of the joint norm of the leaves, then of its mean over all axes but the lag.
  squares = jnp.stack([2 * _LN10 * leaf.reshape(num_lags, -1) for leaf in leaves])
  joint = jax.nn.logsumexp(squares, axis=0) / 2
  phi = jax.nn.logsumexp(joint, axis=1) - math.log(joint.shape[1])

  decays, beyond = _beyond(phi, num_lags // 2)
  kept = jax.lax.cumlogsumexp(phi)[:-1]
  missing = jnp.logaddexp(jax.lax.cumlogsumexp(phi, reverse=True)[1:], beyond)
  delta = missing - kept
  allowed = delta <= jnp.log(jnp.asarray(tolerance, phi.dtype))
  allowed = allowed & decays & jnp.all(phi < jnp.inf)
  return jnp.where(jnp.any(allowed), 1 + jnp.argmax(allowed), num_lags).astype(jnp.int32)


def _check_lags(leaves: list[Array]) -> int:
  """Returns the number of lags that all leaves of a profile have, at least two."""
  shapes = [jnp.shape(leaf) for leaf in leaves]
  lags = {shape[:1] for shape in shapes}
  if len(lags) != 1 or () in lags:
    raise ValueError(f"profile must have leaves [T, ...] with the same lags, got {shapes}.")
  (num_lags,) = lags.pop()
  if num_lags < 2:
    raise ValueError(f"profile must have at least two lags, got {num_lags}.")
  if len({math.prod(shape) for shape in shapes}) != 1:
    raise ValueError(f"profile must have leaves of the same size, got {shapes}.")
  return num_lags


def _beyond(phi: Float[Array, " T"], start: int) -> tuple[Bool[Array, ""], Float[Array, ""]]:
  """Fits a line to ln φ from lag `start` on.

  Returns:
    (whether the line falls, ln of its sum from lag T to infinity).
  """
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
