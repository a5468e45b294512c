"""The leaky network: its equation, Dale's law, and its step Jacobian."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from golden import D, H, check, draw, jacobian

from rnn_jax import make_cell
from rnn_jax.cells import leaky

PHI = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "linear": lambda a: a}


def reference(alpha, phi, params, h, x):
  h = (1 - alpha) * h + alpha * phi(x @ params["w_x"] + h @ params["w_h"] + params["b"])
  return h, h


def dale(params):
  """Returns params with the recurrent kernel of 3 excitatory units and 1 inhibitory unit."""
  w_h = np.abs(params["u"]) * np.array([1, 1, 1, -1])[:, None]
  np.fill_diagonal(w_h, 0)
  return {**params, "w_h": w_h}


@pytest.mark.parametrize("activation", PHI)
def test_cell_matches_its_equation(x64, activation):
  cell = make_cell("leaky", H, alpha=0.3, activation=activation)
  check(cell, lambda *args: reference(0.3, PHI[activation], *args))


def test_cell_with_dales_law_matches_its_equation(x64):
  cell = make_cell("leaky", H, excitatory=0.8)
  check(cell, lambda p, h, x: reference(0.2, PHI["relu"], dale(p), h, x))


def test_without_a_leak_it_is_an_elman_cell(x64):
  cell = make_cell("leaky", H, alpha=1, activation="tanh")
  check(cell, lambda *args: reference(1, np.tanh, *args))


def test_step_jacobian_is_that_of_the_docstring(x64):
  cell, random = make_cell("leaky", H, activation="tanh", alpha=0.3), np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  h, x = random.standard_normal(H), random.standard_normal(D)
  a = x @ params["w_x"] + h @ params["w_h"] + params["b"]
  expected = 0.7 * np.eye(H) + 0.3 * params["w_h"] @ np.diag(1 - np.tanh(a) ** 2)
  np.testing.assert_allclose(jacobian(cell, params, h, x), expected, rtol=1e-10)


@pytest.mark.parametrize("kernel", ["orthogonal", "gaussian"])
def test_excitation_and_inhibition_balance_at_initialization(kernel):
  cell = make_cell("leaky", 400, excitatory=0.8, recurrent_kernel=kernel)
  w_h = jax.jit(lambda key: cell.prepare(cell.init(key, D))["w_h"])(jax.random.key(0))
  assert np.all(w_h[:320] >= 0) and np.all(w_h[320:] <= 0) and not np.diag(w_h).any()
  received = np.sum(w_h[:320], axis=0), -np.sum(w_h[320:], axis=0)
  np.testing.assert_allclose(*(np.mean(sums) for sums in received), rtol=0.02)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"alpha": 0}, "alpha must be greater than 0, got 0"),
    ({"alpha": 1.5}, "alpha must be at most 1, got 1.5"),
    ({"excitatory": 1}, "excitatory must be below 1, got 1"),
    ({"excitatory": 0.1}, "units of both kinds, got 0 excitatory and 4 inhibitory units from 0.1"),
    (
      {"excitatory": 0.5, "activation": "tanh"},
      "activation must be 'relu' if excitatory is given, because .* got 'tanh'",
    ),
    (
      {"excitatory": 0.5, "recurrent_kernel": "identity"},
      "recurrent_kernel must not be 'identity' if excitatory is given",
    ),
  ],
)
def test_invalid_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    leaky(H, **options)
