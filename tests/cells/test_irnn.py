"""The IRNN, a ReLU network initialized to the identity: its equation, params and gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from golden import D, H, check

from rnn_jax import make_cell, unroll


def reference(params, h, x):
  h = np.maximum(x @ params["w_x"] + h @ params["w_h"] + params["b"], 0)
  return h, h


def test_cell_matches_its_equation(x64):
  check(make_cell("irnn", H), reference)


def test_initial_w_h_is_a_scaled_identity_and_w_x_is_small():
  params = make_cell("irnn", 300, scale=0.01).init(jax.random.key(0), 200)
  np.testing.assert_array_equal(params["w_h"], np.float32(0.01) * np.eye(300, dtype=np.float32))
  assert not params["b"].any()
  np.testing.assert_allclose(np.std(params["w_x"]), 0.001, rtol=0.01)
  assert abs(np.mean(params["w_x"])) < 2e-5


def test_an_active_unit_initially_passes_its_gradient_through_unchanged():
  cell = make_cell("irnn", H)
  params = cell.init(jax.random.key(0), D)
  last = jax.jit(jax.jacrev(lambda h: unroll(cell, params, jnp.zeros((100, 1, D)), h)[0]))
  jacobian = last(jnp.array([[1.0, 2, 3, -1]]))[0, :, 0]
  np.testing.assert_array_equal(jacobian, np.diag([1, 1, 1, 0]))
