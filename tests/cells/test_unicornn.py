"""The undamped oscillatory network: its equation, its symplectic step, and initial values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, check, draw, sigmoid

from rnn_jax import make_cell, step, unroll
from rnn_jax.cells import UnicornnCarry


def reference(delta, alpha, params, carry, x):
  size = delta * sigmoid(params["c"])
  force = np.tanh(x @ params["w_x"] + params["u"] * carry.hidden + params["b"])
  z = carry.velocity - size * (force + alpha * carry.hidden)
  h = carry.hidden + size * z
  return UnicornnCarry(h, z), h


@pytest.mark.parametrize(("delta", "alpha"), [(0.19, 30.65), (0.7, 0.0)])
def test_cell_matches_its_equation(x64, delta, alpha):
  cell = make_cell("unicornn", H, delta=delta, alpha=alpha)
  check(cell, lambda *args: reference(delta, alpha, *args))


def problem(**options):
  cell = make_cell("unicornn", H, **options)
  random = np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  return cell, params, draw(random, cell.initial_carry((B,)), 1), random


def blocks(function, carry):
  """Returns ∂(h', z')/∂(h, z) of every example and unit [B, H, 2, 2]; units are independent."""
  one, none = np.ones((B, H)), np.zeros((B, H))
  columns = [
    jnp.stack(jax.jvp(function, (carry,), (UnicornnCarry(*d),))[1], axis=-1)
    for d in ((one, none), (none, one))
  ]
  return jnp.stack(columns, axis=-1)


def test_step_jacobian_is_that_of_the_docstring(x64):
  cell, params, carry, random = problem()
  x = random.standard_normal((B, D))

  @jax.jit
  def found(carry):
    prepared = cell.prepare(params)
    drive = cell.project(prepared, jnp.asarray(x))
    return blocks(lambda carry: step(cell, prepared, carry, drive), carry)

  matrices = np.asarray(found(carry))
  delta = 0.19 * sigmoid(params["c"])
  force = np.tanh(x @ params["w_x"] + params["u"] * carry.hidden + params["b"])
  k = params["u"] * (1 - force**2) + 30.65
  delta = np.broadcast_to(delta, k.shape)
  expected = [[1 - delta**2 * k, delta], [-delta * k, np.ones_like(k)]]
  np.testing.assert_allclose(matrices, np.moveaxis(np.array(expected), (0, 1), (2, 3)), rtol=1e-10)
  assert np.all((delta**2 * k > 0) & (delta**2 * k < 4))
  np.testing.assert_allclose(np.abs(np.linalg.eigvals(matrices)), 1, rtol=1e-12)


def test_the_determinant_of_a_unit_is_one_over_many_steps(x64):
  cell, params, carry, random = problem(delta=1.5, alpha=2.0)
  xs = random.standard_normal((100, B, D))

  @jax.jit
  def found(carry):
    return blocks(lambda start: unroll(cell, params, xs, start, forward_mode=True)[0], carry)

  np.testing.assert_allclose(np.linalg.det(found(carry)), 1, rtol=1e-8)


def test_initial_params_are_those_of_the_authors():
  params = make_cell("unicornn", 4000).init(jax.random.key(0), D)
  assert not params["b"].any()
  bound = (6 / (65 * D)) ** 0.5
  for name, low, high in (("w_x", -bound, bound), ("u", 0, 1), ("c", -0.1, 0.1)):
    np.testing.assert_allclose(
      [params[name].min(), params[name].max()], [low, high], atol=0.01 * high
    )
    assert low <= params[name].min() and params[name].max() <= high


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"delta": 0}, "delta must be greater than 0, got 0"),
    ({"alpha": -1.0}, "alpha must be at least 0, got -1"),
  ],
)
def test_invalid_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_cell("unicornn", H, **options)
