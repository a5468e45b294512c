"""STAR: its equation, its initial biases, its step Jacobian, and its power law."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check, draw, jacobian, sigmoid

from rnn_jax import make_cell, unroll


def reference(beta, params, h, x):
  s, z = np.split(x @ params["w_x"] + params["b"], 2, axis=-1)
  s = s + h @ params["w_h"]
  h = np.tanh(sigmoid(s) * h + (1 - sigmoid(s - beta)) * np.tanh(z))
  return h, h


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_cell_matches_its_equation(x64, beta):
  check(make_cell("star", H, beta=beta), lambda *args: reference(beta, *args))


def initial(hidden_size=H, **options):
  init = make_cell("star", hidden_size, recurrent_kernel="identity", **options).init
  return jax.jit(lambda key: init(key, D))(jax.random.key(0))


def test_initial_forget_bias_is_one_by_default():
  for options, bias in (({}, 1), ({"forget_bias": -2}, -2)):
    np.testing.assert_array_equal(initial(**options)["b"], np.repeat([bias, 0], H))


def test_chrono_biases_cover_all_time_scales():
  b_s, b_z = np.split(initial(1000, chrono=50)["b"], 2)
  u = np.exp(b_s)
  assert 1 <= u.min() < 1.3 and 48.7 < u.max() <= 49
  assert not b_z.any()


def test_both_blocks_of_the_input_kernel_are_drawn():
  w_s, w_z = np.split(initial(500)["w_x"], 2, axis=1)
  np.testing.assert_allclose([np.var(w_s), np.var(w_z)], 1 / D, rtol=0.15)
  assert abs(np.mean(w_s * w_z)) < 0.05


def test_step_jacobian_is_that_of_the_docstring(x64):
  cell, random = make_cell("star", H), np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  s, z = np.split(x @ params["w_x"] + params["b"], 2)
  f, z = sigmoid(s + h @ params["w_h"]), np.tanh(z)
  new, _ = reference(0.0, params, h, x)
  mixed = np.diag(f) + params["w_h"] @ np.diag((h - z) * f * (1 - f))
  expected = mixed @ np.diag(1 - new**2)
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)


def test_a_gate_that_keeps_everything_gives_a_power_law(x64):
  cell = make_cell("star", 1)
  params = {"w_x": np.zeros((1, 2)), "w_h": np.zeros((1, 1)), "b": np.array([60.0, 0.0])}

  @jax.jit
  def carries(h):
    return unroll(cell, params, jnp.zeros((4000, 1, 1)), h, forward_mode=True)[1][:, 0, 0]

  h, slope = jax.jvp(carries, (jnp.ones((1, 1)),), (jnp.ones((1, 1)),))
  # Doubling the number of steps scales a power law k^p by 2^p.
  np.testing.assert_allclose(np.log2(h[3999] / h[1999]), -1 / 2, rtol=2e-3)
  np.testing.assert_allclose(np.log2(slope[3999] / slope[1999]), -3 / 2, rtol=2e-3)
