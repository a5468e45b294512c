"""Powers of two as bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.powers import exponent_of, power_of_two

DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_over_all_of_the_range_and_beyond_it(dtype):
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
def test_exponents_of_powers_and_of_what_is_between_them(dtype):
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
