"""The recurrent highway network: its equation, and its gates."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check, sigmoid

from rnn_jax import make_cell, step, unroll


def reference(depth, params, s, x):
  for i in range(depth):
    if i == 0:
      a = x @ params["w_x"] + s @ params["w_h"] + params["b"]
    else:
      a = s @ params[f"r_{i}"] + params[f"b_{i}"]
    candidate, t = np.tanh(a[:, :H]), sigmoid(a[:, H:])
    s = candidate * t + s * (1 - t)
  return s, s


@pytest.mark.parametrize("depth", [1, 3])
def test_cell_matches_its_equation(x64, depth):
  check(make_cell("rhn", H, num_microsteps=depth), functools.partial(reference, depth))


def test_all_gates_are_named_and_initially_nearly_closed():
  cell = make_cell("rhn", H, num_microsteps=2, transform_bias=-3.0)
  params = cell.init(jax.random.key(0), D)
  for name in ("b", "b_1"):
    np.testing.assert_array_equal(params[name], np.repeat([0, -3], H))
  blocks = [params[name][:, half] for name in ("w_h", "r_1") for half in np.s_[:H, H:]]
  for i, block in enumerate(blocks):
    np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-6)
    assert not any(np.allclose(block, other) for other in blocks[:i])
  h, x = jnp.zeros((1, H)), jnp.zeros((1, D))
  gates = cell.gates(params, h, cell.project(params, x), cell.recur(params, h))
  assert list(gates) == ["transform_0", "transform_1"]
  np.testing.assert_allclose(jnp.stack(list(gates.values())), sigmoid(-3), rtol=1e-6)


def test_new_carry_mixes_old_carry_and_candidate_by_the_transform_gate():
  cell = make_cell("rhn", H, num_microsteps=1)
  params = cell.init(jax.random.key(0), D)
  h, x = jnp.ones((1, H)), jnp.ones((1, D))
  drive, recurrent = cell.project(params, x), cell.recur(params, h)
  t = cell.gates(params, h, drive, recurrent)["transform_0"]
  expected = h + t * (jnp.tanh((drive + recurrent)[:, :H]) - h)
  np.testing.assert_allclose(step(cell, params, h, drive), expected, rtol=1e-6)


def test_closed_gates_pass_the_gradient_through_unchanged_at_any_depth(x64):
  cell = make_cell("rhn", H, num_microsteps=4, transform_bias=-1e4)
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (20, 1, D))
  last = jax.jit(jax.jacrev(lambda h: unroll(cell, params, xs, h)[0]))
  np.testing.assert_array_equal(last(jnp.ones((1, H)))[0, :, 0], np.eye(H))
