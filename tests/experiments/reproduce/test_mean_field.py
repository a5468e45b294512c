"""Tests of mean-field theory against closed forms and limits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reproduce import mean_field
from experiments.reproduce.figures import f2_gain
from rnn_jax.cells import gru

EXPONENTS = {0.5: -0.693, 0.9: -0.105, 1.25: 0.0235, 1.5: 0.0652, 2.0: 0.1547, 3.0: 0.3103}
WITH_INPUTS = {0.5: -0.706, 0.9: -0.142, 1.0: -0.066, 1.1: -0.024, 1.5: 0.061}  # of variance 0.01


def test_exponents_match_their_closed_forms():
  for gain, value in EXPONENTS.items():
    assert mean_field.exponent(gain) == pytest.approx(value, abs=6e-4)
  for gain, value in WITH_INPUTS.items():
    assert mean_field.exponent(gain, f2_gain.SCALE**2) == pytest.approx(value, abs=6e-4)
  assert mean_field.exponent(0.7) == pytest.approx(math.log(0.7))
  assert mean_field.variance(0.5, 1e-8) == pytest.approx(1e-8 / 0.75, rel=1e-3)
  # At a small gain, only the inputs drive the units: a ~ N(0, w_i² D), and sech⁴ a ≈ 1 − 2 a².
  small = mean_field.exponent(1e-3, f2_gain.SCALE**2)
  assert small == pytest.approx(math.log(1e-3) - f2_gain.SCALE**2, abs=3e-4)


@pytest.mark.parametrize(("num_lags", "impulse"), [(24, 0.0), (150, 1.0)])
def test_lag_profile_of_a_gru_at_zero_is_that_of_its_linear_step(num_lags, impulse):
  # At h = x = 0, J = ½ I + ¼ U_n: ‖J^k‖² is the sum of C(k, j)² ½^{2(k−j)} ¼^{2j} over j. After an
  # impulse h decays, so that squares of the cotangents of the gates are below the smallest float32.
  cell = gru(256, recurrent_kernel="identity")
  params, steps = cell.init(jax.random.key(0), 2), num_lags if impulse == 0 else 200
  xs = jnp.zeros((steps, 2)).at[0].set(impulse)
  sample = jax.jit(lambda key: mean_field.lag_profile(cell, params, xs, key, num_lags))
  found = np.mean([sample(jax.random.key(seed)) for seed in range(12)], axis=0)
  squares = [
    sum(math.comb(k, j) ** 2 * 0.25 ** (k - j) / 16**j for j in range(k + 1))
    for k in range(num_lags)
  ]
  np.testing.assert_allclose(found, np.log10(squares) / 2, atol=0.05)
