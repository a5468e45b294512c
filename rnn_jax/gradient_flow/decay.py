"""What a lag profile amounts to: its rate of decay, its half-life, how far it remembers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array


def decay_rate(profile: Array, first: int = 0, last: int | None = None) -> Array:
  """Slope of ln φ_k by least squares over the lags k = first … last, in nats a step.

    rate = Σ_k (k − k̄) ln φ_k / Σ_k (k − k̄)²        φ_k ∝ e^(rate · k)

  Negative where the gradient decays, positive where it grows. Nothing is left out of the fit: where
  φ is exactly zero in the range the rate is −inf, and where it is NaN or infinite the rate is NaN.

  Cost: O(lags).

  Args:
    profile: log₁₀ φ_k, [lag, ...], as `lag_profile` gives it. Of several examples, each has its own
      rate; for the rate of their geometric mean, average the profile first.
    first: shortest lag of the fit; the first few, where the loss itself is felt, may be left out.
    last: longest lag of the fit, itself included; the last one of the profile if None.
  Returns:
    [...], ln φ per step.
  Raises:
    TypeError, ValueError: a lag that the profile does not have, or a range of less than two lags.
  """
  profile = _check_profile(profile)
  longest = profile.shape[0] - 1
  last = longest if last is None else checks.integer("last", last)
  if last > longest:
    raise ValueError(f"last must be at most the longest lag {longest}, got {last}.")
  checks.integer("first", first, minimum=0)
  if first >= last:
    raise ValueError(f"first must be below the last lag {last}, got {first}: a line needs two.")
  logs = profile[first : last + 1]
  lags = np.arange(first, last + 1) - (first + last) / 2
  weights = jnp.asarray(lags / np.sum(lags**2) * math.log(10), profile.dtype)
  slope = jnp.tensordot(weights, logs, axes=1)
  zero = jnp.any(jnp.isneginf(logs), axis=0)
  unknown = jnp.any(jnp.isnan(logs) | jnp.isposinf(logs), axis=0)
  slope = jnp.where(zero, jnp.full_like(slope, -jnp.inf), slope)
  return jnp.where(unknown, jnp.full_like(slope, jnp.nan), slope)


def half_life(rate: Any) -> Array:
  """Steps in which the gradient halves: −ln 2 / rate, and inf where it does not decay.

  Where it grows (rate > 0), `half_life(-rate)` is the number of steps in which it doubles.

  Args:
    rate: from `decay_rate`, [...], in nats a step.
  Returns:
    [...], in steps; 0 for a rate of −inf, NaN for NaN.
  """
  rate = jnp.asarray(rate, float) if isinstance(rate, float | int) else jnp.asarray(rate)
  decays = rate < 0
  steps = -math.log(2) / jnp.where(decays, rate, -jnp.ones_like(rate))
  steps = jnp.where(decays, steps, jnp.full_like(rate, jnp.inf))
  return jnp.where(jnp.isnan(rate), rate, steps)


def effective_memory(profile: Array, epsilon: Any) -> Array:
  """The least lag k with φ_k < ε φ_0: from there on, less than the share ε is felt.

  Cost: O(lags).

  Args:
    profile: log₁₀ φ_k, [lag, ...], as `lag_profile` gives it.
    epsilon: ε, above 0 and at most 1.
  Returns:
    [...], in steps, as floats: inf where no lag of the profile is below (the memory is longer than
    was measured), NaN where φ_0 is zero or infinite, or where a NaN comes first.
  Raises:
    TypeError, ValueError: an empty profile, or ε out of range.
  """
  profile = _check_profile(profile)
  checks.number("epsilon", epsilon, above=0)
  if not isinstance(epsilon, jax.core.Tracer) and epsilon > 1:
    raise ValueError(f"epsilon must be at most 1, got {epsilon}.")
  drop = profile - profile[:1]
  found = (drop < jnp.log10(jnp.asarray(epsilon, profile.dtype))) | jnp.isnan(drop)
  lag = jnp.argmax(found, axis=0)
  unknown = jnp.isnan(jnp.take_along_axis(drop, lag[None], axis=0)[0])
  memory = jnp.where(jnp.any(found, axis=0), lag.astype(profile.dtype), jnp.inf)
  return jnp.where(unknown, jnp.full_like(memory, jnp.nan), memory)


def _check_profile(profile: Any) -> Array:
  profile = jnp.asarray(profile)
  if profile.ndim == 0 or profile.shape[0] == 0:
    raise ValueError(f"profile must be [lag, ...] with at least one lag, got {profile.shape}.")
  if not jnp.issubdtype(profile.dtype, jnp.floating):
    raise TypeError(f"profile must be floats, log₁₀ of the norms, got {profile.dtype}.")
  return profile
