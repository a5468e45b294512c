"""Tests of powers of two and exponents, which are computed from the bits of floats."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.powers import exponent_of, power_of_two

DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_of_two_is_exact_in_range_zero_below_and_the_largest_above(dtype):
  with jax.enable_x64(True):
    info = jnp.finfo(dtype)
    lowest, highest = int(info.minexp), int(info.maxexp) - 1
    powers = np.arange(lowest, highest + 1, dtype=np.int32)
    found = power_of_two(jnp.asarray(powers), dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found, float), 2.0**powers)
    outside = jnp.asarray([-(2**30), lowest - 2, lowest - 1, highest + 1, 2**30], jnp.int32)
    ends = [0, 0, 0, 2.0**highest, 2.0**highest]
    np.testing.assert_array_equal(np.asarray(power_of_two(outside, dtype), float), ends)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponent_of_is_that_of_the_power_of_two_at_or_below_the_number(dtype):
  with jax.enable_x64(True):
    info = jnp.finfo(dtype)
    powers = np.arange(int(info.minexp), int(info.maxexp), dtype=np.int32)
    low = jnp.asarray(2.0**powers, dtype)
    for x in (low, low * jnp.asarray(1.5, dtype), low * jnp.asarray(2 - info.eps, dtype)):
      found = exponent_of(x)
      assert found.dtype == jnp.int32
      np.testing.assert_array_equal(found, powers)
    others = exponent_of(jnp.asarray([0, jnp.inf, jnp.nan], dtype))
    assert others[0] < info.minexp and others[1] >= info.maxexp and others[2] >= info.maxexp
