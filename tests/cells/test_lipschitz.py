"""The Lipschitz network: its equation, its matrices, its step Jacobian, and initial values."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from golden import D, H, check, draw, jacobian

from rnn_jax import make_cell


def mixed(m, beta, gamma):
  return (1 - beta) * (m + m.T) + beta * (m - m.T) - gamma * np.eye(len(m))


def reference(beta, gamma, epsilon, params, h, x):
  a, w = (mixed(m, beta, gamma) for m in np.split(params["m"], 2, axis=1))
  h = h + epsilon * (h @ a + np.tanh(x @ params["w_x"] + h @ w + params["b"]))
  return h, h


@pytest.mark.parametrize("numbers", [(0.75, 0.001, 0.03), (0.3, 0.2, 0.5)])
def test_cell_matches_its_equation(x64, numbers):
  options = dict(zip(("beta", "gamma", "epsilon"), numbers, strict=True))
  cell = make_cell("lipschitz", H, **options)
  check(cell, lambda *args: reference(*numbers, *args))


def test_step_jacobian_keeps_its_linear_part_where_tanh_is_flat(x64):
  cell, random = make_cell("lipschitz", H), np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  a, w = (mixed(m, 0.75, 0.001) for m in np.split(params["m"], 2, axis=1))
  n = np.tanh(x @ params["w_x"] + h @ w + params["b"])
  expected = np.eye(H) + 0.03 * (a + w @ np.diag(1 - n**2))
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-11)
  flat = jacobian(cell, {**params, "b": np.full(H, 60.0)}, h, x)
  np.testing.assert_allclose(flat, np.eye(H) + 0.03 * a, rtol=1e-11)


def test_with_beta_one_the_kernels_are_skew_symmetric_up_to_damping(x64):
  cell = make_cell("lipschitz", 7, beta=1.0, gamma=0.1)
  params = jax.jit(cell.init, static_argnums=1)(jax.random.key(0), D)
  for w in np.split(np.asarray(cell.prepare(params)["w_h"]), 2, axis=1):
    np.testing.assert_allclose(np.linalg.eigvals(w).real, -0.1, rtol=1e-10)


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_initial_params_are_those_of_the_authors(gain):
  params = make_cell("lipschitz", 300, recurrent_gain=gain).init(jax.random.key(0), D)
  np.testing.assert_allclose(np.std(params["m"]), 0.1 * gain / 300, rtol=0.02)
  for name in ("w_x", "b"):
    np.testing.assert_allclose(np.abs(params[name]).max(), D**-0.5, rtol=0.02)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"beta": 1.5}, r"beta must be at most 1, got 1\.5"),
    ({"epsilon": 0}, "epsilon must be greater than 0, got 0"),
  ],
)
def test_invalid_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_cell("lipschitz", H, **options)
