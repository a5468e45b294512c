"""The update gate network: its equation, its initial bias, and its step Jacobian."""

from __future__ import annotations

import jax
import numpy as np
from golden import D, H, blocks, check, draw, jacobian, sigmoid

from rnn_jax import make_cell


def reference(params, h, x):
  g, c = (x @ w + h @ u + b for w, u, b in blocks(params, 2))
  h = sigmoid(g) * h + (1 - sigmoid(g)) * np.tanh(c)
  return h, h


def test_cell_matches_its_equation(x64):
  cell = make_cell("ugrnn", H)
  check(cell, reference)
  assert cell._replace(init=None) == make_cell("gru", H, reset="none")._replace(init=None)


def test_initial_gate_bias_is_one_by_default():
  for options, bias in (({}, 1), ({"forget_bias": -2}, -2)):
    init = make_cell("ugrnn", H, recurrent_kernel="identity", **options).init
    b = jax.jit(lambda key, init=init: init(key, D)["b"])(jax.random.key(0))
    np.testing.assert_array_equal(b, np.repeat([bias, 0], H))


def test_step_jacobian_is_that_of_the_docstring(x64):
  cell, random = make_cell("ugrnn", H), np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  params = draw(random, shapes, 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  (w_g, u_g, b_g), (w_c, u_c, b_c) = blocks(params, 2)
  g, c = sigmoid(x @ w_g + h @ u_g + b_g), np.tanh(x @ w_c + h @ u_c + b_c)
  expected = np.diag(g) + u_g @ np.diag((h - c) * g * (1 - g)) + u_c @ np.diag((1 - g) * (1 - c**2))
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)
