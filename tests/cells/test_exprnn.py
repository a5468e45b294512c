"""The exponential network: its equation, its matrix exponential, its kernel, and its gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from golden import D, H, check

from rnn_jax import make_cell, unroll
from rnn_jax.cells.exprnn import exponential


def reference(params, h, x):
  z = x @ params["w_x"] + h @ scipy.linalg.expm(params["a"] - params["a"].T)
  h = np.sign(z) * np.maximum(np.abs(z) + params["b"], 0)
  return h, h


def test_cell_matches_its_equation(x64):
  check(make_cell("exprnn", H), reference)


def skew(size, norm, seed=0):
  a = np.random.default_rng(seed).standard_normal((size, size))
  return norm * (a - a.T) / np.abs(a - a.T).sum(axis=0).max()


@pytest.mark.parametrize("norm", [0, 1e-3, 0.49, 0.51, 20, 1000])
def test_exponential_equals_expm_of_scipy(x64, norm):
  s = skew(7, norm)
  found = jax.jit(exponential)(s)
  np.testing.assert_allclose(found, scipy.linalg.expm(s), atol=1e-15 * (10 + norm))
  np.testing.assert_allclose(found @ found.T, np.eye(7), atol=1e-15 * (10 + norm))


def test_derivative_of_the_exponential_is_accurate_in_float32(x64):
  s, direction = skew(6, 5), skew(6, 1, seed=1)
  expected = scipy.linalg.expm_frechet(s, direction, compute_expm=False)
  pair = jnp.asarray(s, jnp.float32), jnp.asarray(direction, jnp.float32)
  _, found = jax.jit(lambda s, d: jax.jvp(exponential, (s,), (d,)))(*pair)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_half_precision_kernel_is_orthogonal_to_its_rounding():
  cell = make_cell("exprnn", 32)
  params = {**cell.init(jax.random.key(0), D), "a": jnp.asarray(skew(32, 5), float)}
  w_h = jax.jit(cell.prepare)(jax.tree.map(lambda a: a.astype(jnp.bfloat16), params))["w_h"]
  assert w_h.dtype == jnp.bfloat16
  u = np.asarray(w_h, np.float64)
  np.testing.assert_allclose(u @ u.T, np.eye(32), atol=float(jnp.finfo(jnp.bfloat16).eps))


@pytest.mark.parametrize(("angles", "low", "high"), [("henaff", -np.pi, np.pi), ("cayley", -1, 0)])
def test_initial_kernel_rotates_planes(x64, angles, low, high):
  size = 401
  cell = make_cell("exprnn", size, angles=angles)
  params = cell.init(jax.random.key(0), D)
  a = np.asarray(params["a"])
  theta = np.diagonal(a, 1)[::2]
  assert np.count_nonzero(a) == len(theta) == 200
  assert low <= theta.min() < low + 0.1 and high - 0.1 < theta.max() <= high
  turns = [[[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]] for t in theta]
  expected = scipy.linalg.block_diag(*turns, 1)
  np.testing.assert_allclose(jax.jit(cell.prepare)(params)["w_h"], expected, atol=1e-13)
  assert 0.009 < np.abs(params["b"]).max() <= 0.01


def test_gradient_norm_is_preserved_while_all_units_are_active(x64):
  cell = make_cell("exprnn", H)
  params = cell.init(jax.random.key(0), D)
  params = {**params, "a": jnp.asarray(skew(H, 3)), "b": jnp.full(H, 0.1)}
  xs = jax.random.normal(jax.random.key(1), (50, 1, D))
  last = jax.jit(jax.jacrev(lambda h: unroll(cell, params, xs, h)[0]))
  jacobian = last(jnp.ones((1, H)))[0, :, 0]
  np.testing.assert_allclose(np.linalg.svd(jacobian, compute_uv=False), 1, rtol=1e-12)
