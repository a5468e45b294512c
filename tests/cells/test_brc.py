"""Bistable cells: equations, initial values, step Jacobians, and the gate at which they latch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check, draw, jacobian, sigmoid
from scipy.optimize import brentq

from rnn_jax import make_cell, unroll


def gates(params, h, x):
  c, a, n = np.split(x @ params["w_x"], 3, axis=-1)
  w_h = params["w_h"]
  of_c, of_a = np.split(w_h, 2) if w_h.ndim == 1 else np.split(w_h, 2, axis=1)
  b_c, b_a = np.split(params["b"], 2)
  by = np.multiply if w_h.ndim == 1 else np.matmul
  return sigmoid(c + by(h, of_c) + b_c), 1 + np.tanh(a + by(h, of_a) + b_a), n


def reference(params, h, x):
  c, a, n = gates(params, h, x)
  h = c * h + (1 - c) * np.tanh(n + a * h)
  return h, h


@pytest.mark.parametrize("name", ["brc", "nbrc"])
def test_cell_matches_its_equation(x64, name):
  check(make_cell(name, H), reference)


def test_initial_values_are_those_of_the_authors_code():
  params = make_cell("brc", 400, recurrent_gain=0.5).init(jax.random.key(0), 200)
  np.testing.assert_array_equal(params["w_h"], np.full(800, 0.5))
  # Uniform in ±√(6 / (200 + 400)) = ±0.1.
  assert 0.0999 < np.max(np.abs(params["w_x"])) <= 0.1
  w_h = make_cell("nbrc", 400, recurrent_gain=2.0).init(jax.random.key(0), 1)["w_h"]
  np.testing.assert_allclose(np.max(np.abs(w_h)), 2 * np.sqrt(6 / 800), rtol=1e-3)
  np.testing.assert_allclose(np.var(w_h), 4 / 400, rtol=0.02)


@pytest.mark.parametrize("name", ["brc", "nbrc"])
def test_step_jacobian_is_that_of_the_docstring(x64, name):
  cell, random = make_cell(name, H), np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  c, a, n = gates(params, h, x)
  n = np.tanh(n + a * h)
  w_h = params["w_h"]
  if name == "brc":
    u_c, u_a = (np.diag(w) for w in np.split(w_h, 2))
  else:
    u_c, u_a = np.split(w_h, 2, axis=1)
  expected = np.diag(c + (1 - c) * (1 - n**2) * a)
  expected += u_a @ np.diag((1 - c) * (1 - n**2) * h * a * (2 - a))
  expected += u_c @ np.diag((h - n) * c * (1 - c))
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["brc", "nbrc"])
@pytest.mark.parametrize("a", [0.5, 1.5])
def test_a_feedback_above_one_is_bistable(x64, name, a):
  cell = make_cell(name, 1)
  w_h = np.zeros((1, 2) if name == "nbrc" else 2)
  params = {"w_x": np.zeros((1, 3)), "w_h": w_h, "b": np.array([0.3, np.arctanh(a - 1)])}
  at_zero = jacobian(cell, params, np.zeros(1), np.zeros(1))[0, 0]
  np.testing.assert_allclose(at_zero, 1 + (1 - sigmoid(0.3)) * (a - 1), rtol=1e-12)
  assert (at_zero > 1) == (a > 1)
  h = jnp.array([[-0.01], [0.01]])
  final = jax.jit(lambda h: unroll(cell, params, jnp.zeros((400, 2, 1)), h)[0])(h)[:, 0]
  latched = brentq(lambda h: np.tanh(a * h) - h, 0.1, 1) if a > 1 else 0
  np.testing.assert_allclose(final, [-latched, latched], atol=1e-10)
  if a > 1:
    assert jacobian(cell, params, np.array([latched]), np.zeros(1))[0, 0] < 1
