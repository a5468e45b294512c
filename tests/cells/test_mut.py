"""MUT1, MUT2 and MUT3: equations, step Jacobians, and MUT2's relation to the GRU."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest
from golden import B, D, H, T, check, draw, jacobian, sigmoid

from rnn_jax import make_cell, unroll

NAMES = ("mut1", "mut2", "mut3")


def activations(name, params, h, x):
  """Returns z, r and n."""
  w_z, w_r, w_n = np.split(params["w_x"], 3, axis=1)
  b_z, b_r, b_n = np.split(params["b"], 3)
  if name == "mut1":
    u_r, u_n = np.split(params["w_h"], 2, axis=1)
    z = sigmoid(x @ w_z + b_z)
    r = sigmoid(x @ w_r + h @ u_r + b_r)
    return z, r, np.tanh((r * h) @ u_n + np.tanh(x @ w_n) + b_n)
  u_z, u_r, u_n = np.split(params["w_h"], 3, axis=1)
  z = sigmoid(x @ w_z + (h if name == "mut2" else np.tanh(h)) @ u_z + b_z)
  r = sigmoid(x @ w_r + h @ u_r + b_r)
  return z, r, np.tanh((r * h) @ u_n + x @ w_n + b_n)


def reference(name, params, h, x):
  z, _, n = activations(name, params, h, x)
  h = n * z + h * (1 - z)
  return h, h


@pytest.mark.parametrize("name", NAMES)
def test_cell_matches_its_equation(x64, name):
  check(make_cell(name, H), lambda *args: reference(name, *args))


def random_params(cell):
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  return draw(np.random.default_rng(0), shapes, 0.7)


@pytest.mark.parametrize("name", NAMES)
def test_step_jacobian_is_that_of_the_docstring(x64, name):
  cell, random = make_cell(name, H), np.random.default_rng(1)
  params = random_params(cell)
  h, x = random.standard_normal(H), random.standard_normal(D)
  z, r, n = activations(name, params, h, x)
  *first, u_r, u_n = np.split(params["w_h"], 2 if name == "mut1" else 3, axis=1)
  through_r = (np.diag(r) + u_r @ np.diag(h * r * (1 - r))) @ u_n
  expected = np.diag(1 - z) + through_r @ np.diag(z * (1 - n**2))
  for u_z in first:
    seen = np.eye(H) if name == "mut2" else np.diag(1 - np.tanh(h) ** 2)
    expected += seen @ u_z @ np.diag((n - h) * z * (1 - z))
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)


def test_mut2_is_a_gru_with_the_opposite_update_gate(x64):
  mut2, gru = make_cell("mut2", H), make_cell("gru", H, reset="before")
  params = random_params(mut2)
  sign = np.repeat([-1, 1, 1], H)
  flipped = {name: leaf * sign for name, leaf in params.items()}
  xs = np.random.default_rng(1).standard_normal((T, B, D))
  both = jax.jit(lambda: (unroll(mut2, params, xs), unroll(gru, flipped, xs)))
  chex.assert_trees_all_close(*both(), rtol=1e-12)
