"""Linear recurrences: their equations, and properties stated by their papers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check, sigmoid

from rnn_jax import make_cell
from rnn_jax.cells import CELLS
from rnn_jax.gradient_flow import lyapunov_spectrum, singular_values

LINEAR = [name for name in CELLS if make_cell(name, H).linear]


def parts(params, x, count):
  return np.split(x @ params["w_x"] + params["b"], count, axis=-1)


def lru_reference(params, h, x):
  b_re, b_im, skip = np.split(params["w_x"], 3, axis=-1)
  decay = np.exp(-np.exp(params["nu"]) + 1j * np.exp(params["theta"]))
  h = decay * h + np.exp(params["gamma"]) * (x @ (b_re + 1j * b_im))
  return h, (h @ (params["c_re"] + 1j * params["c_im"])).real + x @ skip


def positive(a):
  return np.where(a >= 0, a + 0.5, sigmoid(a))


def mingru_reference(params, h, x, g=lambda a: a):
  z, n = parts(params, x, 2)
  h = (1 - sigmoid(z)) * h + sigmoid(z) * g(n)
  return h, h


def minlstm_reference(params, h, x, g=lambda a: a):
  i, f, n = parts(params, x, 3)
  i, f = sigmoid(i), sigmoid(f)
  h = f / (f + i) * h + i / (f + i) * g(n)
  return h, h


def rg_lru_reference(params, h, x):
  r, i, v = parts(params, x, 3)
  a = np.exp(-8 * sigmoid(r) * np.log1p(np.exp(params["lambda"])))
  h = a * h + np.sqrt(1 - a**2) * sigmoid(i) * v
  return h, h


REFERENCES = {
  "lru": (make_cell("lru", H), lru_reference),
  "mingru": (make_cell("mingru", H), mingru_reference),
  "mingru, positive": (
    make_cell("mingru", H, candidate="positive"),
    lambda *args: mingru_reference(*args, g=positive),
  ),
  "minlstm": (make_cell("minlstm", H), minlstm_reference),
  "minlstm, positive": (
    make_cell("minlstm", H, candidate="positive"),
    lambda *args: minlstm_reference(*args, g=positive),
  ),
  "rg_lru": (make_cell("rg_lru", H), rg_lru_reference),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_cell_matches_its_equation(x64, name):
  check(*REFERENCES[name])


@pytest.mark.parametrize("name", LINEAR)
def test_update_is_linear(x64, name):
  cell = make_cell(name, H)

  @jax.jit
  def both(keys):
    params = cell.prepare(cell.init(keys[0], D))
    drive = cell.project(params, jax.random.normal(keys[1], (5, D)))
    zero = cell.initial_carry((5,))
    h = jax.random.normal(keys[2], zero.shape, zero.dtype)
    a, b = cell.linear(params, drive)
    assert b.shape == h.shape == np.broadcast_shapes(a.shape, h.shape)
    return cell.update(params, h, drive, ()), a * h + b

  np.testing.assert_allclose(*both(jax.random.split(jax.random.key(0), 3)), rtol=1e-12)


def test_initial_lru_eigenvalues_lie_on_the_ring_and_the_carry_has_unit_variance(x64):
  cell = make_cell("lru", 3000, min_radius=0.9, max_radius=0.99, max_phase=0.3)

  @jax.jit
  def initial(key):
    params = cell.init(key, 3)  # C is not returned, so XLA does not compute this large array
    return params["gamma"], params["w_x"], cell.prepare(params)["lambda"]

  gamma, w_x, values = jax.device_get(initial(jax.random.key(0)))
  square = np.abs(values) ** 2
  assert square.min() >= 0.81 and square.max() <= 0.9801
  np.testing.assert_allclose(square.mean(), (0.81 + 0.9801) / 2, rtol=2e-3)
  assert np.angle(values).min() > 0 and np.angle(values).max() <= 0.3
  # For white inputs of unit variance, the stationary carry has the variance
  # E |e^γ B x|² / (1 − |λ|²) = E |B x|² = 1.
  np.testing.assert_allclose(np.exp(2 * gamma), 1 - square, rtol=1e-10)
  np.testing.assert_allclose(np.var(w_x[:, :6000]), 1 / 6, rtol=0.05)
  c = jax.jit(lambda key: make_cell("lru", 1000).init(key, 3)["c_re"])(jax.random.key(0))
  np.testing.assert_allclose(np.var(c), 1 / 1000, rtol=0.01)


def test_initial_rg_lru_eigenvalues_lie_on_the_ring(x64):
  values = make_cell("rg_lru", 3000).init(jax.random.key(0), 1)["lambda"]
  square = np.exp(-2 * np.logaddexp(0, values))
  assert square.min() >= 0.81 and square.max() <= 0.998001
  np.testing.assert_allclose(square.mean(), (0.81 + 0.998001) / 2, rtol=3e-3)


def test_a_closed_rg_lru_keeps_its_carry_and_has_a_finite_gradient():
  cell = make_cell("rg_lru", H)
  shut = np.concatenate([np.full(H, -200), np.ones(2 * H)]).astype(np.float32)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradients(drive, h):
    params = cell.prepare(cell.init(jax.random.key(0), D))
    return jnp.sum(cell.update(params, h, drive, ()))

  drive_bar, h_bar = gradients(shut, np.ones(H, np.float32))
  np.testing.assert_array_equal(h_bar, np.ones(H))
  assert np.all(np.isfinite(drive_bar))


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_mingru_and_minlstm_are_finite_at_extreme_gates(name):
  cell = make_cell(name, 1)
  for sign in (-1.0, 1.0):
    drive = jnp.full(2 if name == "mingru" else 3, sign * 200)
    a, b = cell.linear({}, drive)
    assert np.all(np.isfinite([a, b])) and 0 <= a <= 1
  # At pre-activations of -200 both gates underflow to 0, but the normalized gates are still ½.
  if name == "minlstm":
    np.testing.assert_allclose(cell.linear({}, jnp.array([-200.0, -200.0, 3.0])), [[0.5], [1.5]])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"min_radius": 0.9, "max_radius": 0.5}, "min_radius must be below max_radius = 0.5, got 0.9"),
    ({"max_radius": 1.5}, "max_radius must be at most 1, got 1.5"),
    ({"min_radius": -0.5}, "min_radius must be at least 0, got -0.5"),
  ],
)
def test_invalid_rings_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_cell("lru", H, **options)


def test_lru_lyapunov_and_singular_values_follow_from_its_eigenvalues(x64):
  # The step Jacobian is diag(λ) at every step. Written as a real [2·H, 2·H] matrix, it has each
  # singular value |λ| twice.
  cell = make_cell("lru", 3, min_radius=0.4)
  params = jax.jit(cell.init, static_argnums=1)(jax.random.key(0), D)
  sizes = np.repeat(np.sort(np.abs(cell.prepare(params)["lambda"]))[::-1], 2)
  xs = jax.random.normal(jax.random.key(1), (400, 1, D))
  # Skip the first 200 steps, in which the exponents have not yet settled in descending order.
  (found,) = jax.jit(lambda xs: lyapunov_spectrum([cell], [params], xs, skip=200))(xs)
  np.testing.assert_allclose(found[0], np.log(sizes), rtol=1e-6)
  (values,) = jax.jit(lambda xs: singular_values([cell], [params], xs))(xs[:200])
  np.testing.assert_allclose(values[-1, 0], 199 * np.log10(sizes), rtol=1e-10)
