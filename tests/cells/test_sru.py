"""The simple recurrent unit: its equation, step Jacobian, associative scan and initial values."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, check, draw, sigmoid

from rnn_jax import make_cell, step, unroll
from rnn_jax.cells import SRUCarry


def unit(params, c, x):
  w_v, w_f, w_r, w_s = np.split(params["w_x"], 4, axis=1)
  b_f, b_r = np.split(params["b"], 2)
  p_f, p_r = np.split(params.get("p", np.zeros(2 * H)), 2)
  f, r = sigmoid(x @ w_f + p_f * c + b_f), sigmoid(x @ w_r + p_r * c + b_r)
  new = f * c + (1 - f) * (x @ w_v)
  return new, r, r * new + (1 - r) * (x @ w_s)


def reference(params, carry, x):
  c, r, y = unit(params, carry.cell, x)
  return SRUCarry(c, r), y


def reference_of_version_one(params, c, x):
  c, _, y = unit(params, c, x)
  return c, y


def test_cell_matches_its_equation(x64):
  check(make_cell("sru", H), reference)
  check(make_cell("sru", H, peepholes=False), reference_of_version_one)


def problem(**options):
  cell = make_cell("sru", H, **options)
  random = np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 1)
  return cell, params, random.standard_normal((T, B, D))


def test_associative_scan_without_peepholes_equals_the_loop(x64):
  cell, params, xs = problem(peepholes=False)
  loop, scan = (
    jax.jit(lambda m=method: unroll(cell, params, xs, method=m))()
    for method in ("loop", "associative")
  )
  chex.assert_trees_all_close(loop, scan, rtol=1e-12)


def test_step_jacobian_exceeds_one_where_a_peephole_amplifies(x64):
  cell, params, xs = problem()
  c = np.random.default_rng(1).standard_normal((B, H))
  params["p"] = 4 * params["p"]

  @jax.jit
  def along(c):
    drive = cell.project(cell.prepare(params), jnp.asarray(xs[0]))
    return step(cell, params, SRUCarry(c, jnp.zeros_like(c)), drive).cell

  _, diagonal = jax.jvp(along, (c,), (np.ones_like(c),))
  w_v, w_f = np.split(params["w_x"], 4, axis=1)[:2]
  p_f, b_f = params["p"][:H], params["b"][:H]
  f, v = sigmoid(xs[0] @ w_f + p_f * c + b_f), xs[0] @ w_v
  np.testing.assert_allclose(diagonal, f + p_f * f * (1 - f) * (c - v), rtol=1e-12)
  np.testing.assert_array_equal(diagonal > 1, p_f * f * (c - v) > 1)
  assert np.any(diagonal > 1) and np.any(diagonal < 1)


@pytest.mark.parametrize(("peepholes", "share"), [(True, 0.5), (False, 1)])
def test_initial_variances_are_those_of_the_authors(peepholes, share):
  cell = make_cell("sru", 2000, peepholes=peepholes, highway_bias=-1.0)
  params = cell.init(jax.random.key(0), D)
  variances = np.var(params["w_x"].reshape(D, 4, 2000), axis=(0, 2)) * D
  np.testing.assert_allclose(variances, [1, share, share, 1 + 2 * np.exp(-1)], rtol=0.05)
  np.testing.assert_array_equal(params["b"], np.repeat([0, -1], 2000))
  assert ("p" in params) == peepholes
  if peepholes:
    np.testing.assert_allclose(np.var(params["p"]), 0.5, rtol=0.05)


@pytest.mark.parametrize("highway_bias", [0.0, -3.0])
def test_the_scaling_correction_keeps_the_variance_of_the_input(highway_bias):
  # The correction assumes that c is a mean of many values, with a variance far below that of x.
  cell = make_cell("sru", 500, peepholes=False, highway_bias=highway_bias)
  xs = jax.random.normal(jax.random.key(1), (40, 20, 50))
  ys = jax.jit(lambda key: unroll(cell, cell.init(key, 50), xs)[1])(jax.random.key(0))
  assert 0.6 < np.var(ys) < 1.4
