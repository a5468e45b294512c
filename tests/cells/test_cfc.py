"""CfC: its equation in all modes, its initial values, and its step Jacobian."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from golden import D, H, check, draw, jacobian, sigmoid

from rnn_jax import make_cell
from rnn_jax.cells import cfc

K = 5
STEP = 0.7


def psi(a):
  return 1.7159 * np.tanh(0.666 * a)


def heads(params, h, x, num_layers):
  s = psi(x @ params["w_x"] + h @ params["w_h"] + params["b"])
  for i in range(1, num_layers):
    s = psi(s @ params[f"v_{i}"] + params[f"c_{i}"])
  y = s @ params["w_y"] + params["b_y"]
  return np.split(y, y.shape[-1] // H, axis=-1)


def reference(mode, num_layers, params, h, x):
  if mode == "pure":
    (f,) = heads(params, h, x, num_layers)
    rate = np.abs(params["w_tau"]) + np.abs(f)
    h = -params["a"] * np.exp(-STEP * rate) * f + params["a"]
    return h, h
  f, g, p, q = heads(params, h, x, num_layers)
  t = sigmoid(STEP * p + q)
  h = np.tanh(f) * (1 if mode == "no_gate" else 1 - t) + t * np.tanh(g)
  return h, h


def make(mode="default", num_layers=1):
  return make_cell(
    "cfc", H, mode=mode, time_step=STEP, backbone_units=K, backbone_layers=num_layers
  )


@pytest.mark.parametrize(
  ("mode", "num_layers"), [("default", 1), ("default", 3), ("no_gate", 1), ("pure", 1)]
)
def test_cell_matches_its_equation(x64, mode, num_layers):
  cell = make(mode, num_layers)
  check(cell, lambda *args: reference(mode, num_layers, *args))
  assert (cell.gates is None) == (mode == "pure")


def test_initial_values_are_those_of_the_authors_code():
  cell = cfc(300, mode="pure", backbone_units=100, backbone_layers=2)
  params = jax.jit(cell.init, static_argnums=1)(jax.random.key(0), 200)
  first = np.concatenate([params["w_x"], params["w_h"]])
  others = [(params[w], params[b]) for w, b in (("v_1", "c_1"), ("w_y", "b_y"))]
  for w, b in ((first, params["b"]), *others):
    bounds = np.sqrt(6 / sum(w.shape)), len(w) ** -0.5
    np.testing.assert_allclose([np.max(np.abs(w)), np.max(np.abs(b))], bounds, rtol=0.05)
  assert not params["w_tau"].any() and np.all(params["a"] == 1)
  # Each of the four blocks of W_y is Glorot uniform by itself.
  w_y = jax.jit(lambda key: cfc(300, backbone_units=100).init(key, 1)["w_y"])(jax.random.key(0))
  np.testing.assert_allclose(np.max(np.abs(w_y)), np.sqrt(6 / 400), rtol=1e-3)


def test_step_jacobian_is_that_of_the_docstring(x64):
  cell, random = make(), np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  a = x @ params["w_x"] + h @ params["w_h"] + params["b"]
  f, g, p, q = heads(params, h, x, 1)
  f, g, t = np.tanh(f), np.tanh(g), sigmoid(STEP * p + q)
  w_f, w_g, w_p, w_q = np.split(params["w_y"], 4, axis=1)
  candidates = w_f @ np.diag((1 - t) * (1 - f**2)) + w_g @ np.diag(t * (1 - g**2))
  gate = (STEP * w_p + w_q) @ np.diag(t * (1 - t) * (g - f))
  slope = 1.7159 * 0.666 * (1 - np.tanh(0.666 * a) ** 2)
  expected = params["w_h"] @ np.diag(slope) @ (candidates + gate)
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)
