"""Normalizing and shifting of `Scaled` quantities, which are stored as a value and an exponent."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rnn_jax.gradient_flow.reverse_sweep import Scaled, normalize, shift, unscaled


def whole(scaled):
  """Returns the quantity that a `Scaled` represents, value · 2^exponent, as float64."""
  return np.ldexp(np.asarray(scaled.value, float), np.asarray(scaled.exponent)[..., None])


def test_normalize_is_exact_at_both_ends_of_the_float_range():
  rows = [[3e38, 1e30], [-(2.0**127), 1.0], [1.2e-38, 0.0], [1.0, -0.75], [2.0**-100, 2.0**20]]
  value = jnp.asarray(rows, jnp.float32)[None]
  scaled = normalize(unscaled(value))
  np.testing.assert_array_equal(whole(scaled), np.asarray(value, float))
  largest = np.max(np.abs(scaled.value), axis=-1)
  assert np.all((largest >= 0.5) & (largest < 4))


def test_zero_gets_the_lowest_exponent_and_nan_and_inf_stay():
  scaled = normalize(unscaled(jnp.asarray([[[0.0, 0.0], [jnp.nan, 1.0], [jnp.inf, 1.0]]])))
  assert scaled.exponent[0, 0] < -(2**29)
  np.testing.assert_array_equal(scaled.value[0, 0], 0)
  assert np.isnan(scaled.value[0, 1, 0]) and np.isposinf(scaled.value[0, 2, 0])


def test_shift_to_a_larger_exponent_flushes_small_values_to_zero():
  scaled = Scaled(jnp.asarray([[1.5], [1.5], [1.5]], jnp.float32), jnp.asarray([10, -90, -500]))
  shifted = shift(scaled, jnp.asarray([20, 20, 20]))
  np.testing.assert_array_equal(shifted.value[:, 0], np.float32([1.5 / 2**10, 1.5 / 2**110, 0]))
  np.testing.assert_array_equal(shifted.exponent, 20)
