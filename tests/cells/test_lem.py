"""Long expressive memory: its equation, and gradients through closed gates."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from golden import D, H, check, sigmoid

from rnn_jax import make_cell, unroll
from rnn_jax.cells import LEMCarry


def reference(params, carry, x):
  h, z = carry
  (w_1, w_2, w_z, w_h), (b_1, b_2, b_z, b_h) = (np.split(params[p], 4, -1) for p in ("w_x", "b"))
  u_1, u_2, u_z = np.split(params["w_h"], 3, -1)
  d_1 = 0.7 * sigmoid(x @ w_1 + h @ u_1 + b_1)
  d_2 = 0.7 * sigmoid(x @ w_2 + h @ u_2 + b_2)
  z = (1 - d_1) * z + d_1 * np.tanh(x @ w_z + h @ u_z + b_z)
  h = (1 - d_2) * h + d_2 * np.tanh(x @ w_h + z @ params["v"] + b_h)
  return LEMCarry(h, z), h


def test_cell_matches_its_equation(x64):
  check(make_cell("lem", H, delta=0.7), reference)


def test_all_params_are_initialized_uniformly_within_one_bound():
  params = make_cell("lem", 64).init(jax.random.key(0), 3)
  for values in params.values():
    assert 0.11 < np.abs(values).max() <= 1 / 8
    assert values.min() < 0 < values.max()


def test_closed_gates_pass_both_gradients_through_unchanged(x64):
  cell = make_cell("lem", H)
  params = cell.init(jax.random.key(0), D)
  closed = jnp.where(jnp.arange(4 * H) < 2 * H, -1e4, params["b"])
  xs = jax.random.normal(jax.random.key(1), (20, 1, D))
  carry = LEMCarry(jnp.ones((1, H)), jnp.full((1, H), 2.0))
  weights = LEMCarry(jnp.arange(4.0)[None], jnp.arange(4.0, 8)[None])

  @jax.jit
  @jax.grad
  def last(carry):
    final, _ = unroll(cell, {**params, "b": closed}, xs, carry)
    return jnp.vdot(final.hidden, weights.hidden) + jnp.vdot(final.memory, weights.memory)

  chex.assert_trees_all_equal(last(carry), weights)
