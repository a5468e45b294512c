"""The minimal recurrent network: its equation, and gradients through an open gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from golden import D, H, check, sigmoid

from rnn_jax import make_cell, unroll


def reference(params, h, x):
  b_z, b_u = np.split(params["b"], 2)
  z = np.tanh(x @ params["w_x"] + b_z)
  u = sigmoid(h @ params["w_h"] + z @ params["v"] + b_u)
  h = u * h + (1 - u) * z
  return h, h


def test_cell_matches_its_equation(x64):
  check(make_cell("minimalrnn", H), reference)


def test_initial_gate_kernels_are_orthogonal_and_differ():
  params = make_cell("minimalrnn", 8, recurrent_gain=0.5).init(jax.random.key(0), D)
  v, w_h = params["v"], params["w_h"]
  np.testing.assert_allclose(v @ v.T, np.eye(8), atol=1e-6)
  np.testing.assert_allclose(w_h @ w_h.T, np.eye(8) / 4, atol=1e-6)
  assert not np.allclose(v, 2 * w_h)
  assert not params["b"].any()


def test_an_open_gate_passes_the_gradient_through_unchanged(x64):
  cell = make_cell("minimalrnn", H)
  params = {**cell.init(jax.random.key(0), D), "b": jnp.repeat(jnp.array([0.3, 1e4]), H)}
  xs = jax.random.normal(jax.random.key(1), (20, 1, D))
  last = jax.jit(jax.jacrev(lambda h: unroll(cell, params, xs, h)[0]))
  np.testing.assert_array_equal(last(jnp.ones((1, H)))[0, :, 0], np.eye(H))
