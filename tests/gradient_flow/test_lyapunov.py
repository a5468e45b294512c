"""Lyapunov spectra against closed forms, determinants and a plain NumPy loop, in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import PLAIN
from networks import draw, large_carry, large_params
from scipy.special import digamma, polygamma

from rnn_jax import make_cell, unroll
from rnn_jax.cells import stack
from rnn_jax.gradient_flow import lyapunov_spectrum, step_jacobians
from rnn_jax.types import Cell, unprepared

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)

# Most tests use the same shapes, so that few programs are compiled.
T, SKIP, B, D, H = 300, 150, 2, 3, 3
NETWORKS = {name: make_cell(name, H) for name in PLAIN}
LINEAR = make_cell("elman", 4, activation="linear")


XS = 0.8 * np.random.default_rng(3).standard_normal((T, B, D))


def params_of(name, **changes):
  return {**large_params(NETWORKS[name], D), **changes}


def start_of(name):
  return large_carry(NETWORKS[name], B)


@functools.partial(jax.jit, static_argnames=("cell", "num_exponents", "skip"))
def spectrum_of(cell, params, xs, num_exponents=None, carry=None, skip=SKIP):
  carries = None if carry is None else [carry]
  options = {"num_exponents": num_exponents, "carries": carries, "skip": skip}
  return lyapunov_spectrum([cell], [params], xs, **options)[0]


def linear(w_h, **options):
  params = {"w_x": jnp.zeros((1, 4)), "w_h": jnp.asarray(w_h), "b": jnp.zeros(4)}
  return spectrum_of(LINEAR, params, jnp.zeros((T, 1, 1)), **options)[0]


def with_eigenvalues(values, seed):
  axes = np.random.default_rng(seed).standard_normal((len(values), len(values)))
  return axes @ np.diag(values) @ np.linalg.inv(axes)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.2])
def test_all_exponents_of_a_scaled_orthogonal_recurrence_are_the_log_of_its_scale(scale):
  close(linear(scale * np.linalg.qr(np.asarray(draw(1, 4, 4)))[0]), np.log(scale))


def test_linear_exponents_are_logs_of_eigenvalues_once_settled():
  eigenvalues = np.array([1.5, -1.0, 0.6, 0.3])
  close(linear(with_eigenvalues(eigenvalues, 0)), np.log(np.abs(eigenvalues)))


def test_leading_exponents_are_found_if_units_do_not_interact():
  close(linear(np.diag([0.2, 0.4, 0.8, 0.1]), num_exponents=2), np.log([0.8, 0.4]))


def test_gru_at_zero_has_the_exponents_of_its_linearization():
  w_h = params_of("gru")["w_h"].at[:, 2 * H :].set(with_eigenvalues([1.9, 0.5, -0.8], 0))
  params = params_of("gru", w_h=w_h, b=jnp.zeros(3 * H))
  cell = NETWORKS["gru"]
  got = spectrum_of(cell, params, 0 * XS, carry=cell.initial_carry((B,)))
  close(got[0], np.log(0.5 + np.array([1.9, 0.5, -0.8]) / 4))


def test_lstm_at_zero_has_its_spectrum_on_the_joint_carry():
  b = jnp.zeros(4 * H).at[H : 2 * H].set(1.0)
  w_g = with_eigenvalues([0.9, -0.8, -2.0], 0)
  params = params_of("lstm", b=b, w_h=params_of("lstm")["w_h"].at[:, 2 * H : 3 * H].set(w_g))
  cell = NETWORKS["lstm"]
  got = spectrum_of(cell, params, 0 * XS, carry=cell.initial_carry((B,)))[0]
  close(got[:H], np.log(sigmoid(1.0) + np.array([0.9, -0.8, -2.0]) / 4))
  assert np.all(got[H:] < np.log(1e-15))  # in exact arithmetic, these are −∞


@pytest.mark.parametrize("name", PLAIN)
def test_exponents_are_those_of_a_plain_loop_and_add_up_to_the_determinant(name):
  cell, params, start = NETWORKS[name], params_of(name), start_of(name)
  of_start = jax.jit(lambda start: step_jacobians([cell], [params], XS, carries=[start])[0])
  jacobians = np.asarray(of_start(start))
  got = spectrum_of(cell, params, XS, carry=start)
  close(np.sum(got, axis=1), np.mean(np.linalg.slogdet(jacobians[SKIP:])[1], axis=0))
  q = np.broadcast_to(np.eye(jacobians.shape[-1]), jacobians[0].shape)
  logs = []
  for jacobian in jacobians:
    q, r = np.linalg.qr(jacobian @ q)
    logs.append(np.log(np.abs(np.diagonal(r, axis1=1, axis2=2))))
  # The loop starts from a different Q_0, so the exponents agree only approximately.
  np.testing.assert_allclose(got, np.mean(logs[SKIP:], axis=0), atol=2e-3)
  elsewhere = jax.tree.map(lambda a: a.at[1, 0].set(jnp.nan), start)
  lost = np.isnan(spectrum_of(cell, params, XS, carry=elsewhere))
  np.testing.assert_array_equal(lost, np.tile([[False], [True]], len(got[0])))


def test_fewer_exponents_are_the_first_ones():
  w = np.asarray(draw(5, 4, 4))
  close(linear(w, num_exponents=2), linear(w)[:2])


def test_gaussian_products_have_the_exponents_of_their_closed_form():
  size, num_steps, gain = 6, 3000, 1.3
  cell = Cell(  # h_t = J_t h_{t−1}, where the matrix J_t is the input at step t
    init=lambda key, input_size, dtype=float: (),
    initial_carry=lambda batch_shape, dtype=float: jnp.zeros((*batch_shape, size), dtype),
    prepare=unprepared,
    project=lambda params, xs, key=None: xs.reshape(*xs.shape[:-1], size, size),
    recur=lambda params, h: h,
    update=lambda params, h, drive, recurrent: (drive @ recurrent[..., None])[..., 0],
    output=lambda params, h, drive: h,
  )
  random = np.random.default_rng(0)
  xs = jnp.asarray(gain / np.sqrt(size) * random.standard_normal((num_steps, B, size**2)))
  rows = (size - np.arange(size)) / 2
  expected = np.log(gain) + (np.log(2 / size) + digamma(rows)) / 2
  error = np.sqrt(polygamma(1, rows) / 4 / num_steps)
  scores = (np.asarray(spectrum_of(cell, (), xs, skip=0)) - expected) / error
  assert np.all(np.abs(scores) < 4)
  assert np.sqrt(np.mean(scores**2)) < 2


def test_random_tanh_network_is_as_chaotic_as_mean_field_theory_says():
  size, gain, expected = 200, 3.0, 0.3103
  random = np.random.default_rng(0)
  w_h = gain / np.sqrt(size) * random.standard_normal((size, size))
  params = {"w_x": np.zeros((1, size)), "w_h": w_h, "b": np.zeros(size)}
  start = random.standard_normal((4, size))
  xs = np.zeros((300, 4, 1))
  found = spectrum_of(make_cell("elman", size), params, xs, 1, carry=jnp.asarray(start), skip=100)
  assert np.mean(found) == pytest.approx(expected, abs=0.03)


def test_stack_has_the_exponents_of_its_layers():
  names = ["gru", "elman"]
  cells, params = [NETWORKS[name] for name in names], [params_of(name) for name in names]
  carry = tuple(start_of(name) for name in names)
  ys = jax.jit(lambda xs: unroll(cells[0], params[0], xs, carry[0])[1])(XS)
  apart = [
    spectrum_of(*of[:2], xs, carry=of[2])
    for of, xs in zip(zip(cells, params, carry, strict=True), (XS, ys), strict=True)
  ]
  together = spectrum_of(stack(cells), tuple(params), XS, carry=carry)
  close(np.sum(together, axis=1), np.sum(np.concatenate(apart, axis=1), axis=1))
  expected = -np.sort(-np.concatenate(apart, axis=1))
  np.testing.assert_allclose(-np.sort(-together), expected, atol=0.02)


@pytest.mark.parametrize(
  ("name", "arguments", "error", "message"),
  [
    ("elman", {"num_exponents": 4}, ValueError, "num_exponents must be at most N = 3.*got 4"),
    ("lstm", {"num_exponents": 7}, ValueError, "num_exponents must be at most N = 6.*got 7"),
    ("gru", {"num_exponents": 0}, ValueError, "num_exponents must be at least 1, got 0"),
    ("gru", {"num_exponents": 2.0}, TypeError, "num_exponents must be an integer, got 2.0"),
    ("gru", {"skip": 5}, ValueError, "skip must be below T = 5, got 5"),
    ("gru", {"skip": -1}, ValueError, "skip must be at least 0, got -1"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_options_are_named(name, arguments, error, message):
  cell, params = NETWORKS[name], params_of(name)
  with pytest.raises(error, match=message):
    jax.eval_shape(lambda xs: lyapunov_spectrum([cell], [params], xs, **arguments), XS[:5])
