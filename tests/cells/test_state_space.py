"""S4D, S5 and S6: equations in NumPy, discretizations, and initial eigenvalues."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, check, draw
from scipy.linalg import expm

from rnn_jax import make_cell, unroll
from rnn_jax.cells.linear import DISCRETIZATIONS, hippo_eigenvectors


def discretized(method, values, step):
  if method == "zoh":
    return np.exp(step * values), (np.exp(step * values) - 1) / values
  return (1 + step * values / 2) / (1 - step * values / 2), step / (1 - step * values / 2)


def s4d(method, params, h, x):
  u = x @ params["w_x"]
  values = -np.exp(params["nu"]) + 1j * params["omega"]
  factor, b = discretized(method, values, np.exp(params["log_step"])[:, None])
  h = factor * h + b * u[..., None]
  c = params["c_re"] + 1j * params["c_im"]
  return h, 2 * (c * h).sum(-1).real + params["skip"] * u


def s5(method, params, h, x):
  b_re, b_im, skip = np.split(params["w_x"], 3, axis=-1)
  values = params["lambda_re"] + 1j * params["lambda_im"]
  factor, b = discretized(method, values, np.exp(params["log_step"]))
  h = factor * h + b * (x @ (b_re + 1j * b_im))
  return h, 2 * (h @ (params["c_re"] + 1j * params["c_im"])).real + x @ skip


def s6(state_size, params, h, x):
  a = x @ params["w_x"]
  u, low, b, c = np.split(a, [H, H + 1, H + 1 + state_size], axis=-1)
  step = np.log1p(np.exp(low @ params["w_step"] + params["step_bias"]))
  h_new = np.empty_like(h)
  for n in range(state_size):
    decay = np.exp(-step * np.exp(params["log_rate"][:, n]))
    h_new[..., n] = decay * h[..., n] + step * u * b[:, n, None]
  return h_new, np.einsum("bhn,bn->bh", h_new, c) + params["skip"] * u


REFERENCES = {
  "s4d": (make_cell("s4d", H, state_size=6), lambda *args: s4d("zoh", *args)),
  "s4d, bilinear": (
    make_cell("s4d", H, state_size=6, discretization="bilinear"),
    lambda *args: s4d("bilinear", *args),
  ),
  "s5": (make_cell("s5", H), lambda *args: s5("zoh", *args)),
  "s5, bilinear": (
    make_cell("s5", H, discretization="bilinear"),
    lambda *args: s5("bilinear", *args),
  ),
  "s6": (make_cell("s6", H, state_size=3), lambda *args: s6(3, *args)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_cell_matches_its_equation(x64, name):
  check(*REFERENCES[name])


def test_s4d_is_a_convolution(x64):
  cell = make_cell("s4d", H, state_size=6)
  random = np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, jnp.float64)), 0.7)
  xs = random.standard_normal((T, B, D))
  _, ys = jax.jit(lambda xs: unroll(cell, params, xs, method="associative"))(xs)
  u, values = xs @ params["w_x"], -np.exp(params["nu"]) + 1j * params["omega"]
  factor, b = discretized("zoh", values, np.exp(params["log_step"])[:, None])
  c = params["c_re"] + 1j * params["c_im"]
  kernel = [2 * (c * b * factor**lag).sum(-1).real for lag in range(T)]
  for t in range(T):
    expected = params["skip"] * u[t] + sum(kernel[t - s] * u[s] for s in range(t + 1))
    np.testing.assert_allclose(ys[t], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("name", "order"), [("zoh", np.inf), ("bilinear", 3)])
def test_discretizations_approximate_the_exact_step(x64, name, order):
  values = np.array([-0.5 + 0j, -0.3 + 40j, -2 - 7j])
  for step in (1e-3, 0.02):
    factor, b = DISCRETIZATIONS[name](jnp.asarray(values), jnp.asarray(step))
    for i, value in enumerate(values):
      # The exponential of Δ [[λ, 1], [0, 0]] holds e^{Δλ} and ∫ e^{sλ} ds from 0 to Δ.
      (exact, integral), _ = expm(step * np.array([[value, 1], [0, 0]]))
      size = abs(step * value)
      assert abs(factor[i] - exact) <= max(size**order, 1e-13)
      assert abs(b[i] - integral) <= max(size ** (order - 1), 1e-13) * step


def test_the_zero_order_hold_is_accurate_for_small_steps_in_float32():
  values = jnp.asarray([-0.5, -0.5 + 1j, 3j], np.complex64)
  _, b = DISCRETIZATIONS["zoh"](values, jnp.asarray(1e-6, np.float32))
  np.testing.assert_allclose(b / 1e-6, 1, rtol=3e-6)


def test_hippo_n_is_the_normal_part_of_hippo_legs():
  n = 8
  root = np.sqrt(2 * np.arange(n) + 1)
  legs = -np.tril(np.outer(root, root), -1) - np.diag(np.arange(n) + 1)
  frequencies, vectors = hippo_eigenvectors(n)
  half = vectors * (-0.5 + 1j * frequencies) @ vectors.conj().T
  low_rank = np.outer(root, root) / 2
  np.testing.assert_allclose(2 * half.real, legs + low_rank, atol=1e-13)
  assert np.all(np.diff(frequencies) > 0) and frequencies[0] > 0


@pytest.mark.parametrize("frequencies", ["lin", "inv", "legs"])
def test_initial_s4d_eigenvalues_are_those_of_the_paper(x64, frequencies):
  cell = make_cell("s4d", 2000, state_size=4, frequencies=frequencies)
  params = cell.init(jax.random.key(0), D)
  expected = {
    "lin": [0, np.pi],
    "inv": [4 / np.pi * 3, 4 / np.pi / 3],
    "legs": hippo_eigenvectors(4)[0],
  }
  np.testing.assert_allclose(params["omega"], np.tile(expected[frequencies], (2000, 1)), atol=1e-12)
  np.testing.assert_allclose(-np.exp(params["nu"]), -0.5)
  step = np.exp(params["log_step"])
  assert 0.001 <= step.min() < 0.0011 and 0.095 < step.max() <= 0.1
  size = np.abs(cell.prepare(params)["lambda"])
  np.testing.assert_allclose(size, np.exp(-step / 2)[:, None] * np.ones(2), rtol=1e-12)
  c = np.asarray(params["c_re"]) + 1j * np.asarray(params["c_im"])
  np.testing.assert_allclose([np.var(c), np.var(params["skip"])], 1, rtol=0.1)


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_initial_s5_eigenvalues_and_kernels_are_those_of_the_paper(x64, num_blocks):
  cell = make_cell("s5", 6, num_blocks=num_blocks)
  params = cell.init(jax.random.key(0), D)
  frequencies, _ = hippo_eigenvectors(12 // num_blocks)
  np.testing.assert_allclose(params["lambda_im"], np.tile(frequencies, num_blocks), atol=1e-12)
  np.testing.assert_array_equal(params["lambda_re"], -0.5)
  # B is Vᴴ times a real kernel of variance 1/D, and C is V times a complex one whose parts have the
  # variance 1/(2·H). The columns of V have unit norm.
  wide = make_cell("s5", 300).init(jax.random.key(1), 4)
  np.testing.assert_allclose(np.var(wide["w_x"][:, :600]), 1 / 8, rtol=0.1)
  c = np.asarray(wide["c_re"]) + 1j * np.asarray(wide["c_im"])
  np.testing.assert_allclose(np.mean(np.abs(c) ** 2), 2 / 600, rtol=0.03)


def test_initial_s6_step_sizes_and_rates_are_those_of_the_authors_code(x64):
  cell = make_cell("s6", 1600, state_size=3)
  params = cell.init(jax.random.key(0), D)
  drive = cell.project(cell.prepare(params), jnp.zeros(D))
  assert 0.001 <= drive.step.min() < 0.0011 and 0.095 < drive.step.max() <= 0.1
  a, _ = cell.linear(cell.prepare(params), drive)
  np.testing.assert_allclose(a, np.exp(-np.outer(drive.step, [1, 2, 3])), rtol=1e-10)
  assert params["w_step"].shape == (100, 1600) and abs(params["w_step"]).max() <= 0.1


def test_invalid_options_are_refused():
  with pytest.raises(ValueError, match="state_size must be even, got 5"):
    make_cell("s4d", 4, state_size=5)
  with pytest.raises(ValueError, match="num_blocks must divide hidden_size 4, got 3"):
    make_cell("s5", 4, num_blocks=3)
  with pytest.raises(ValueError, match="state_size must be at least 1, got 0"):
    make_cell("s6", 4, state_size=0)
  with pytest.raises(ValueError, match=r"Unknown discretization 'euler'.*bilinear, zoh"):
    make_cell("s5", 4, discretization="euler")
