"""Decay rate, half-life and effective memory of hand-made lag profiles."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.gradient_flow import decay_rate, effective_memory, half_life

LAGS = np.arange(30)


def geometric(*rates):
  """Returns the lag profile log₁₀ φ_k of φ_k = 7 · e^(rate · k), [lag, len(rates)]."""
  return jnp.asarray(np.log10(7) + LAGS[:, None] * np.array(rates) / np.log(10), float)


def test_rate_of_a_geometric_profile_is_its_exponent_for_any_range_of_lags(x64):
  rates = np.array([-100.0, -0.3, 0.0, 2.5])
  for first, last in ((0, None), (3, 9), (28, 29)):
    got = decay_rate(geometric(*rates), first, last)
    np.testing.assert_allclose(got, rates, rtol=1e-10, atol=1e-12)


def test_rate_is_the_least_squares_line_over_the_range_alone(x64):
  profile = np.random.default_rng(0).standard_normal((30, 2, 3))
  expected = np.polyfit(LAGS[5:21], profile[5:21].reshape(16, -1) * np.log(10), 1)[0].reshape(2, 3)
  profile[:5], profile[21:] = np.nan, -np.inf
  np.testing.assert_allclose(jax.jit(decay_rate, static_argnums=(1, 2))(profile, 5, 20), expected)


def test_zeros_decay_infinitely_and_nan_stays_nan():
  profile = geometric(-1.0, -1.0, -1.0, -1.0)
  profile = profile.at[20:, 1].set(-jnp.inf).at[20, 2].set(jnp.nan).at[20, 3].set(jnp.inf)
  np.testing.assert_allclose(decay_rate(profile), [-1, -np.inf, np.nan, np.nan], rtol=1e-5)
  np.testing.assert_allclose(decay_rate(profile, last=19), -np.ones(4), rtol=1e-5)


def test_half_life_is_finite_only_for_decay():
  np.testing.assert_allclose(half_life(-np.log(2) / 5), 5, rtol=1e-6)
  rates = jnp.array([-jnp.log(2.0), 0.0, 0.1, -jnp.inf, jnp.nan])
  np.testing.assert_allclose(half_life(rates), [1, np.inf, np.inf, 0, np.nan], rtol=1e-6)
  np.testing.assert_allclose(half_life(-rates)[2], np.log(2) / 0.1, rtol=1e-6)


def test_effective_memory_is_the_first_lag_below_epsilon(x64):
  # At rate −0.5, φ_k / φ_0 = e^(−k/2) is below 0.01 if k > 2 ln 100 = 9.2, so first at lag 10.
  profile = geometric(-0.5, -0.1, 0.5, -0.5, -0.5, -0.5)
  profile = profile.at[0, 3].set(-jnp.inf).at[4, 4].set(jnp.nan).at[20, 5].set(jnp.nan)
  memory = jax.jit(effective_memory)(profile, 0.01)
  np.testing.assert_array_equal(memory, [10, np.inf, np.inf, np.nan, np.nan, 10])
  np.testing.assert_array_equal(effective_memory(profile[:, 0], 1), 1)
  dip = jnp.array([0.0, -3.0, -1.0, -3.0])
  assert effective_memory(dip, 0.05) == 1


@pytest.mark.parametrize(
  ("call", "exception", "message"),
  [
    (lambda p: decay_rate(p, 0, 30), ValueError, "last must be at most the longest lag 29, got 30"),
    (lambda p: decay_rate(p, 5, 5), ValueError, "first must be below the last lag 5, got 5"),
    (lambda p: decay_rate(p, -1), ValueError, "first must be at least 0, got -1"),
    (lambda p: decay_rate(p, 1.0), TypeError, "first must be an integer, got 1.0"),
    (lambda p: decay_rate(p[:1]), ValueError, "first must be below the last lag 0, got 0"),
    (lambda p: decay_rate(p[:0]), ValueError, "profile must be [lag, ...] with at least one lag"),
    (lambda p: decay_rate(p.astype(int)), TypeError, "profile must be an array of floats"),
    (lambda p: effective_memory(p, 0), ValueError, "epsilon must be greater than 0, got 0"),
    (lambda p: effective_memory(p, 1.5), ValueError, "epsilon must be at most 1, got 1.5"),
    (lambda p: effective_memory(p[:0], 0.5), ValueError, "profile must be"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_errors_name_the_argument_and_its_value(call, exception, message):
  with pytest.raises(exception, match=re.escape(message)):
    call(geometric(-1.0))
