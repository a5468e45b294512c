"""Adaptive truncation of backpropagation: the shortest truncation whose bias is small enough."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from rnn_jax import checks
from rnn_jax.precision import at_least_float32
from rnn_jax.types import AnyArray

_LN10 = math.log(10)


def choose_truncation(profile: PyTree[AnyArray], tolerance: float | AnyArray) -> Int[Array, ""]:
  """Returns the smallest truncation k whose estimated relative bias δ(k) is at most `tolerance`.

    φ_k = mean ‖∂L_s/∂h_{s−k}‖   measured at lags k = 0 … T−1
    ln φ_k ≈ a + k ln β          least-squares line through the later half of the lags
    E(k) = Σ_{k ≤ j < T} φ_j + e^a β^T / (1 − β)      δ(k) = E(k) / Σ_{j<k} φ_j
    k = min {k < T : δ(k) ≤ tolerance},      T if there is none

  A gradient truncated to k steps includes the lags 0 … k−1. E(k) estimates the part that it lacks:
  the measured norms at lags k … T−1, plus the fitted exponential summed over all lags from T on.
  Lags with φ = 0 are left out of the fit. If fewer than two lags remain, the sum from T on is
  omitted. The result is T if the norms do not decay (β ≥ 1), if a norm is not finite, or if all
  norms are zero.

  Convention: for each example and position s, all leaves of the profile (of every layer, and both
  an LSTM's hidden and its cell) form one vector. φ_k is the arithmetic mean of that vector's norm
  over examples and positions. It is computed in the log domain, so norms may lie far outside the
  float range. δ adds norms as if the gradients at all lags pointed in the same direction, so it
  ignores cancellation between lags.

  Cost: O(T).

  Args:
    profile: from `lag_profile`: pytree of log₁₀ norms, leaves [T, ...] with the lag on the first
      axis. T must be at least 2.
    tolerance: the largest acceptable δ, above 0 and below 1; a number or a traced scalar.
  Returns:
    k, int32 scalar, from 1 to T.
  Raises:
    TypeError, ValueError: if `tolerance` is out of range, or if `profile` has fewer than two lags.
  References:
    Aicher, Foti and Fox, 2019, https://arxiv.org/abs/1905.07473
  """
  checks.number("tolerance", tolerance, above=0, below=1)
  leaves = [checks.array("profile", leaf, "floats") for leaf in jax.tree.leaves(profile)]
  leaves = at_least_float32(leaves)
  num_lags = _check_lags(leaves)

  # `joint` is ln of the norm over all leaves. `phi` is ln of its mean over all axes but the lag.
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
  """Returns T, the number of lags; raises if T < 2, or if the leaves differ in T or in size."""
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
  """Fits a line a + k ln β to ln φ_k at the lags from `start` on, and extrapolates it beyond T − 1.

  Lags with φ_k = 0 are left out of the fit.

  Args:
    phi: ln φ at the lags 0 … T−1.
    start: the first lag of the fit.
  Returns:
    (whether the line falls, ln Σ_{k ≥ T} e^a β^k); (True, −inf) if fewer than two lags
    remain.
  """
  later = phi[start:]
  counts = jnp.isfinite(later)
  lags = jnp.arange(start - len(phi), 0, dtype=phi.dtype)  # k − T, so that `at_end` is at lag T
  number = jnp.sum(counts, dtype=phi.dtype)

  def mean(values: Array) -> Array:
    return jnp.sum(jnp.where(counts, values, jnp.zeros_like(values))) / jnp.maximum(number, 1)

  from_mean = lags - mean(lags)
  slope = mean(from_mean * later) / mean(from_mean**2)
  at_end = mean(later) - slope * mean(lags)
  alone = number < 2
  beyond = jnp.where(alone, -jnp.inf, at_end - jnp.log(-jnp.expm1(slope)))
  return alone | (slope < 0), beyond
