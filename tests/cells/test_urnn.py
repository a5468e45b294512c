"""The unitary evolution network: its equation, its kernel, step Jacobian, and initial values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from golden import D, H, check, draw

from rnn_jax import make_cell, step, unroll
from rnn_jax.cells.urnn import mod_relu


def kernel(params):
  """Returns U as a product of seven matrices."""
  size = params["theta"].shape[1]
  turns = [np.diag(np.exp(1j * theta)) for theta in params["theta"]]
  fourier = scipy.linalg.dft(size, scale="sqrtn")
  permuted = np.eye(size)[:, np.random.default_rng(0).permutation(size)]
  v = params["v_re"] + 1j * params["v_im"]
  flips = [np.eye(size) - 2 * np.outer(w, w.conj()) / np.linalg.norm(w) ** 2 for w in v]
  parts = [turns[0], fourier, flips[0], permuted, turns[1], fourier.conj(), flips[1], turns[2]]
  return np.linalg.multi_dot(parts)


def pre_activation(params, h, x):
  re, im = np.split(params["w_x"], 2, axis=1)
  return x @ (re + 1j * im) + h @ kernel(params)


def reference(params, h, x):
  z = pre_activation(params, h, x)
  h = z / np.abs(z) * np.maximum(np.abs(z) + params["b"], 0)
  return h, np.concatenate([h.real, h.imag], axis=-1) @ params["w_y"]


def test_cell_matches_its_equation(x64):
  check(make_cell("urnn", H), reference)


def random_params(size=H, seed=0):
  cell = make_cell("urnn", size)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  return cell, draw(np.random.default_rng(seed), shapes, 0.7)


def test_the_kernel_is_unitary(x64):
  cell, params = random_params(9)
  u = np.asarray(jax.jit(cell.prepare)(params)["w_h"])
  np.testing.assert_allclose(u @ u.conj().T, np.eye(9), atol=1e-13)
  np.testing.assert_allclose(u, kernel(params), atol=1e-13)


def real_jacobian(cell, params, h, x):
  """Returns the step Jacobian [2·H, 2·H] in the coordinates [Re h, Im h]."""

  @jax.jit
  @jax.jacfwd
  def columns(parts):
    prepared = cell.prepare(params)
    h = jax.lax.complex(*jnp.split(parts, 2))
    new = step(cell, prepared, h, cell.project(prepared, jnp.asarray(x)))
    return jnp.concatenate([new.real, new.imag])

  return np.asarray(columns(jnp.concatenate([h.real, h.imag]))).T


def test_singular_values_of_the_step_jacobian_are_one_and_the_factors_across_z(x64):
  cell, params = random_params()
  params["b"] = np.array([-0.3, 0.0, 0.4, -9.0])
  h, x = draw(np.random.default_rng(1), (np.zeros(H, complex), np.zeros(D)), 1)
  size = np.abs(pre_activation(params, h, x))
  on = size + params["b"] > 0
  expected = np.concatenate([on, np.where(on, 1 + params["b"] / size, 0)])
  found = np.linalg.svd(real_jacobian(cell, params, h, x), compute_uv=False)
  np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-12, atol=1e-13)
  assert found.max() > 1.05


def test_initial_params_are_those_of_the_paper_and_keep_the_gradient_norm(x64):
  cell = make_cell("urnn", 60)
  params = jax.jit(lambda key: cell.init(key, D))(jax.random.key(0))
  assert not params["b"].any()
  for name, bound in (("theta", np.pi), ("v_re", 1), ("v_im", 1), ("w_x", (6 / 63) ** 0.5)):
    assert 0.95 * bound < np.abs(params[name]).max() <= bound
  xs = jax.random.normal(jax.random.key(1), (40, 1, D))

  @jax.jit
  @jax.grad
  def gradient(start):
    last = unroll(cell, params, xs, start)[0]
    return jnp.sum(jnp.arange(60.0)[None] * last.real)

  start = draw(np.random.default_rng(0), np.zeros((1, 60), complex), 1)
  norm = np.linalg.norm(gradient(jnp.asarray(start)))
  np.testing.assert_allclose(norm, np.linalg.norm(np.arange(60)), rtol=1e-10)


def test_mod_relu_at_zero_has_a_finite_derivative():
  z, b = jnp.array([0j, 1e-30j, 1 + 1j]), jnp.array([0.5, 0.5, -0.5])
  value, grads = jax.value_and_grad(lambda z, b: jnp.sum(jnp.abs(mod_relu(z, b)) ** 2), (0, 1))(
    z, b
  )
  assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)
  np.testing.assert_allclose(value, (2**0.5 - 0.5) ** 2, rtol=1e-6)
