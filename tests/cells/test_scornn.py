"""The scaled Cayley network: its equation, its kernel, its step Jacobian, and initial values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from golden import D, H, check, draw, jacobian

from rnn_jax import make_cell


def kernel(a, signs):
  s, one = a - a.T, np.eye(len(a))
  return np.linalg.inv(one + s) @ (one - s) @ np.diag(signs)


def reference(signs, params, h, x):
  z = x @ params["w_x"] + h @ kernel(params["a"], signs)
  h = np.sign(z) * np.maximum(np.abs(z) + params["b"], 0)
  return h, h


@pytest.mark.parametrize(("share", "signs"), [(0.5, [1, 1, -1, -1]), (0.2, [1, 1, 1, -1])])
def test_cell_matches_its_equation(x64, share, signs):
  cell = make_cell("scornn", H, negative_share=share)
  check(cell, lambda *args: reference(signs, *args))


@pytest.mark.parametrize("size", [0.1, 10])
def test_the_kernel_is_orthogonal_with_the_determinant_of_d(x64, size):
  cell = make_cell("scornn", 7, negative_share=0.4)
  a = size * np.random.default_rng(0).standard_normal((7, 7))
  params = {"w_x": np.ones((D, 7)), "a": a, "b": np.ones(7)}
  u = np.asarray(jax.jit(cell.prepare)(params)["w_h"])
  np.testing.assert_allclose(u @ u.T, np.eye(7), atol=1e-13)
  np.testing.assert_allclose(np.linalg.det(u), (-1) ** 3, rtol=1e-12)


def test_step_jacobian_is_that_of_the_docstring(x64):
  cell, random = make_cell("scornn", H), np.random.default_rng(3)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  params["b"] = np.array([-9.0, -0.1, 0.1, 0.5])
  h, x = random.standard_normal(H), random.standard_normal(D)
  u = kernel(params["a"], [1, 1, -1, -1])
  on = np.abs(x @ params["w_x"] + h @ u) + params["b"] > 0
  found = jacobian(cell, params, h, x)
  np.testing.assert_allclose(found, u @ np.diag(on), atol=1e-13)
  assert 0 < on.sum() < H
  np.testing.assert_allclose(np.sort(np.linalg.svd(found)[1]), np.sort(on), atol=1e-13)


def test_initial_kernel_rotates_planes_and_changes_signs(x64):
  size = 401
  cell = make_cell("scornn", size)
  params = cell.init(jax.random.key(0), D)
  s = -2 * np.arctan(np.diagonal(params["a"], 1)[::2])
  assert 0 <= s.min() < 0.05 and np.pi / 2 - 0.05 < s.max() <= np.pi / 2
  turns = [[[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]] for t in s]
  signs = np.repeat([1, -1], [201, 200])
  expected = scipy.linalg.block_diag(*turns, 1) * signs
  np.testing.assert_allclose(jax.jit(cell.prepare)(params)["w_h"], expected, atol=1e-13)
  assert not params["b"].any() and 0.0098 < np.abs(params["w_x"]).max() <= 0.01


def test_half_precision_kernel_is_orthogonal_to_its_rounding():
  cell = make_cell("scornn", 32)
  a = jax.random.normal(jax.random.key(1), (32, 32), jnp.bfloat16)
  params = {**cell.init(jax.random.key(0), D, jnp.bfloat16), "a": a}
  w_h = jax.jit(cell.prepare)(params)["w_h"]
  assert w_h.dtype == jnp.bfloat16
  u = np.asarray(w_h, np.float64)
  np.testing.assert_allclose(u @ u.T, np.eye(32), atol=float(jnp.finfo(jnp.bfloat16).eps))


def test_a_share_outside_zero_to_one_is_refused():
  with pytest.raises(ValueError, match=r"negative_share must be at most 1, got 1\.5"):
    make_cell("scornn", H, negative_share=1.5)
