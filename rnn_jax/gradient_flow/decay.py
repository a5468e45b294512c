"""Summaries of a lag profile: decay rate, half-life, effective memory."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.precision import at_least_float32


def decay_rate(
  profile: ArrayLike, first: int = 0, last: int | None = None
) -> Float[Array, "*batch"]:
  """Returns the least-squares slope of ln φ_k over the lags k = first … last, in nats per step.

    rate = Σ_k (k − k̄) ln φ_k / Σ_k (k − k̄)²        φ_k ∝ e^(rate · k)

  φ_k is the gradient's norm at lag k. The rate is negative where the gradient decays and positive
  where it grows. The fit includes every lag of the range, so the rate is −inf if φ is exactly zero
  at any of them, and NaN if φ is NaN or infinite at any of them.

  Cost: O(lags).

  Args:
    profile: log₁₀ φ_k, [lag, ...], from `lag_profile`. Each example has its own rate; for the rate
      of the examples' geometric mean, average the profile over the examples first.
    first: shortest lag of the fit. A value above 0 skips the first lags, whose norms depend on the
      loss more than on the recurrence.
    last: longest lag of the fit, inclusive; the last lag of the profile if None.
  Returns:
    The rate, [...], in nats per step.
  Raises:
    TypeError, ValueError: if `first` or `last` is not a lag of the profile, or if `first` is not
      below `last`.
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


def half_life(rate: ArrayLike) -> Float[Array, "*batch"]:
  """Returns the number of steps in which the gradient halves: −ln 2 / rate; inf where rate ≥ 0.

  Where the gradient grows (rate > 0), `half_life(-rate)` is the number of steps in which it
  doubles.

  Args:
    rate: from `decay_rate`, [...], in nats per step.
  Returns:
    The half-life, [...], in steps: 0 for a rate of −inf, NaN for a rate of NaN.
  Raises:
    TypeError: if `rate` is neither a number nor an array of floats.
  """
  if isinstance(rate, int) and not isinstance(rate, bool):
    rate = float(rate)
  rate = at_least_float32(checks.array("rate", rate, "floats"))
  decays = rate < 0
  steps = -math.log(2) / jnp.where(decays, rate, -jnp.ones_like(rate))
  steps = jnp.where(decays, steps, jnp.full_like(rate, jnp.inf))
  return jnp.where(jnp.isnan(rate), rate, steps)


def effective_memory(profile: ArrayLike, epsilon: float | int | Array) -> Float[Array, "*batch"]:
  """Returns the smallest lag k at which the gradient norm φ_k has fallen below ε φ_0.

  Cost: O(lags).

  Args:
    profile: log₁₀ φ_k, [lag, ...], from `lag_profile`.
    epsilon: ε, above 0 and at most 1.
  Returns:
    The lag k as floats, [...]: inf where no φ_k of the profile is below ε φ_0 (the memory is longer
    than the profile); NaN where φ_0 is zero or infinite, or where the profile has a NaN before k.
  Raises:
    TypeError, ValueError: if `profile` has no lags, or if `epsilon` is out of range.
  """
  profile = _check_profile(profile)
  checks.number("epsilon", epsilon, above=0, maximum=1)
  drop = profile - profile[:1]
  found = (drop < jnp.log10(jnp.asarray(epsilon, profile.dtype))) | jnp.isnan(drop)
  lag = jnp.argmax(found, axis=0)
  unknown = jnp.isnan(jnp.take_along_axis(drop, lag[None], axis=0)[0])
  memory = jnp.where(jnp.any(found, axis=0), lag.astype(profile.dtype), jnp.inf)
  return jnp.where(unknown, jnp.full_like(memory, jnp.nan), memory)


def _check_profile(profile: ArrayLike) -> Float[Array, "*lags"]:
  """Returns the profile as an array; raises unless it is floats [lag, ...] and has a lag."""
  profile = at_least_float32(checks.array("profile", profile, "floats"))
  if profile.ndim == 0 or profile.shape[0] == 0:
    raise ValueError(f"profile must be [lag, ...] with at least one lag, got {profile.shape}.")
  return profile
