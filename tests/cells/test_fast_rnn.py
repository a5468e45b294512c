"""FastRNN and FastGRNN: equations, initial values, and step Jacobians."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from golden import D, H, check, draw, jacobian, sigmoid

from rnn_jax import make_cell


def candidate(params, h, x):
  return np.tanh(x @ params["w_x"] + h @ params["w_h"] + params["b"])


def fast_rnn(params, h, x):
  h = sigmoid(params["beta"]) * h + sigmoid(params["alpha"]) * candidate(params, h, x)
  return h, h


def gate_and_candidate(params, h, x):
  b_z, b_n = np.split(params["b"], 2)
  a = x @ params["w_x"] + h @ params["w_h"]
  return sigmoid(a + b_z), np.tanh(a + b_n)


def fast_grnn(params, h, x):
  z, n = gate_and_candidate(params, h, x)
  h = z * h + (sigmoid(params["zeta"]) * (1 - z) + sigmoid(params["nu"])) * n
  return h, h


REFERENCES = {"fast_rnn": fast_rnn, "fast_grnn": fast_grnn}


@pytest.mark.parametrize("name", REFERENCES)
def test_cell_matches_its_equation(x64, name):
  check(make_cell(name, H), REFERENCES[name])


def test_initial_values_are_those_of_the_authors_code():
  options = {"fast_rnn": {"alpha": -3, "beta": 3}, "fast_grnn": {"zeta": 1, "nu": -4}}
  for name, scalars in options.items():
    params = make_cell(name, 300, recurrent_gain=2.0).init(jax.random.key(0), 200)
    np.testing.assert_allclose(
      [np.std(params["w_x"]), np.std(params["w_h"])], [0.1, 0.2], rtol=0.02
    )
    assert np.all(params["b"] == 1)
    assert {scalar: params[scalar].tolist() for scalar in scalars} == {
      scalar: [value] for scalar, value in scalars.items()
    }
    changed = make_cell(name, 1, **dict.fromkeys(scalars, 0.5)).init(jax.random.key(0), 1)
    assert all(changed[scalar] == 0.5 for scalar in scalars)


@pytest.mark.parametrize("name", REFERENCES)
def test_step_jacobian_is_that_of_the_docstring(x64, name):
  cell, random = make_cell(name, H), np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  if name == "fast_rnn":
    n = candidate(params, h, x)
    alpha, beta = sigmoid(params["alpha"]), sigmoid(params["beta"])
    expected = beta * np.eye(H) + alpha * params["w_h"] @ np.diag(1 - n**2)
  else:
    z, n = gate_and_candidate(params, h, x)
    zeta, nu = sigmoid(params["zeta"]), sigmoid(params["nu"])
    through_a = (h - zeta * n) * z * (1 - z) + (zeta * (1 - z) + nu) * (1 - n**2)
    expected = np.diag(z) + params["w_h"] @ np.diag(through_a)
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)
