"""Tests of Jacobians and gradient norms against closed forms, in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import PLAIN
from jax.flatten_util import ravel_pytree

from rnn_jax import gradient_probe, make_cell, step, unroll
from rnn_jax.cells import LSTMCarry

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14)

D, H = 2, 4


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape))


def params_of(num_gates, hidden_size=H):
  width = num_gates * hidden_size
  return {"w_x": draw(0, D, width), "w_h": draw(1, hidden_size, width), "b": draw(2, width)}


def zeros_of(num_gates):
  return jax.tree.map(jnp.zeros_like, params_of(num_gates))


LINEAR = make_cell("elman", H, activation="linear")
SCALAR = make_cell("elman", 1, activation="linear")
LSTM = make_cell("lstm", H)


@functools.partial(jax.jit, static_argnums=0)
def step_jacobian(cell, params, carry, x):
  """Returns ∂h'/∂h of one step and one example, where h is the carry's leaves, concatenated."""
  flat, unflatten = ravel_pytree(carry)
  drive = cell.project(params, x)

  def following(flat):
    return ravel_pytree(step(cell, params, unflatten(flat), drive))[0]

  return jax.jacobian(following)(flat)


@functools.partial(jax.jit, static_argnums=0)
def end_jacobian(cell, params, xs, carry):
  """Returns ∂h_T/∂h_0 of `unroll` for one example, where h is the carry's leaves, concatenated."""
  flat, unflatten = ravel_pytree(carry)

  def end(flat):
    start = jax.tree.map(lambda a: a[None], unflatten(flat))
    return ravel_pytree(unroll(cell, params, xs[:, None], start)[0])[0]

  return jax.jacobian(end)(flat)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize(("name", "num_gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
def test_jacobian_of_the_loop_is_the_product_of_step_jacobians(name, num_gates):
  cell, params, xs = make_cell(name, H), params_of(num_gates), draw(3, 5, D)
  start = jax.tree.map(lambda a: draw(a.size, *a.shape), cell.initial_carry(()))
  following = jax.jit(lambda carry, x: step(cell, params, carry, cell.project(params, x)))
  carry, product = start, np.eye(sum(leaf.size for leaf in jax.tree.leaves(start)))
  for x in np.asarray(xs):
    product = np.asarray(step_jacobian(cell, params, carry, x)) @ product
    carry = following(carry, x)
  close(end_jacobian(cell, params, xs, start), product)


@pytest.mark.parametrize("lag", [1, 7])
def test_linear_jacobian_is_a_power_of_the_kernel(lag):
  params = params_of(1)
  jacobian = end_jacobian(LINEAR, params, draw(3, lag, D), draw(4, H))
  power = np.linalg.matrix_power(params["w_h"], lag)
  close(jacobian, power.T)  # transposed, since h is a row vector: h_lag = h_0 W_h^lag + …


def test_linear_gradient_norm_is_that_of_a_kernel_power_times_the_cotangent():
  num_steps, v = 6, draw(5, H)
  cell, params = make_cell("elman", H, activation="linear"), params_of(1)
  xs = draw(3, num_steps, 1, D)

  def loss(probe):
    return unroll(cell, params, xs, probe=probe)[1][-1, 0] @ v

  norms = jax.jit(jax.grad(loss))(gradient_probe(cell, num_steps, 1))
  for t in range(num_steps):
    power = np.linalg.matrix_power(params["w_h"], num_steps - 1 - t)
    close(norms[t, 0], np.linalg.norm(power @ v))


@pytest.mark.parametrize("w", [-0.5, 0.9, 3.0])
def test_scalar_jacobian_is_a_power_of_the_weight(w):
  params = {"w_x": np.zeros((D, 1)), "w_h": np.full((1, 1), w), "b": np.zeros(1)}
  close(end_jacobian(SCALAR, params, np.zeros((10, D)), np.ones(1)), [[w**10]])


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
def test_scaled_orthogonal_jacobian_has_all_singular_values_scale_to_the_lag(scale):
  cell = make_cell("elman", H, activation="linear", recurrent_gain=scale)
  params = cell.init(jax.random.key(0), D)
  jacobian = end_jacobian(LINEAR, params, draw(3, 30, D), draw(4, H))
  close(np.linalg.svd(jacobian, compute_uv=False), scale**30)


def test_tanh_jacobian_is_the_product_of_slopes_and_kernels_and_bounded_by_its_norm():
  num_steps = 6
  cell, params = make_cell("elman", H), params_of(1)
  xs = draw(3, num_steps, D)
  _, hs = unroll(cell, params, xs[:, None])
  product = np.eye(H)
  for h in hs[:, 0]:
    product = np.diag(1 - h**2) @ params["w_h"].T @ product
  jacobian = end_jacobian(cell, params, xs, jnp.zeros(H))
  close(jacobian, product)
  largest = np.linalg.norm(params["w_h"], 2)
  assert np.linalg.norm(jacobian, 2) <= largest**num_steps


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gru_jacobian_at_zero_is_half_identity_plus_a_quarter_of_the_kernel(reset):
  cell = make_cell("gru", H, reset=reset)
  params = {**zeros_of(3), "w_h": params_of(3)["w_h"]}
  jacobian = step_jacobian(cell, params, jnp.zeros(H), jnp.zeros(D))
  close(jacobian, np.eye(H) / 2 + params["w_h"][:, 2 * H :].T / 4)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 3.0])
def test_lstm_eigenvalues_at_zero_are_the_forget_gate_plus_a_quarter_of_the_kernels(forget_bias):
  cell = make_cell("lstm", H)
  b = zeros_of(4)["b"].at[H : 2 * H].set(forget_bias)
  params = {**zeros_of(4), "w_h": params_of(4)["w_h"], "b": b}
  jacobian = step_jacobian(cell, params, cell.initial_carry(()), jnp.zeros(D))
  block = sigmoid(forget_bias) * np.eye(H) + params["w_h"][:, 2 * H : 3 * H] / 4
  # The Jacobian has the eigenvalues of `block`, and H eigenvalues that are zero.
  close(np.poly(jacobian), np.append(np.poly(block), np.zeros(H)))


def test_lstm_without_recurrence_carries_its_cell_by_the_product_of_forget_gates():
  cell, params = make_cell("lstm", H), params_of(4)
  params = {**params, "w_h": jnp.zeros_like(params["w_h"])}
  xs, start = draw(3, 8, D), LSTMCarry(draw(4, H), draw(5, H))
  jacobian = end_jacobian(cell, params, xs, start)
  gates = sigmoid(np.asarray(xs @ params["w_x"]) + np.asarray(params["b"]))[:, H : 2 * H]
  close(jacobian[H:, H:], np.diag(np.prod(gates, axis=0)))
  assert not np.any(jacobian[:, :H])


@jax.jit
def cell_norms(params, xs):
  """Returns the norms [T, 1] of dL/dc_t for L = Σ c_T."""

  def loss(probe):
    return jnp.sum(unroll(LSTM, params, xs, probe=probe)[0].cell)

  return jax.grad(loss)(gradient_probe(LSTM, len(xs), 1)).cell


@pytest.mark.parametrize(
  ("forget_bias", "half_life"), [(0, 1.00), (1, 2.21), (2, 5.46), (3, 14.3), (5, 103.2)]
)
def test_lstm_half_life_follows_from_the_forget_bias_of_init(forget_bias, half_life):
  cell = make_cell("lstm", H, forget_bias=float(forget_bias))
  b = cell.init(jax.random.key(0), D)["b"]
  norms = cell_norms({**zeros_of(4), "b": b}, np.zeros((20, 1, D)))
  slope = np.diff(np.log(norms[:, 0]))
  close(slope, -np.log(sigmoid(forget_bias)))
  assert np.log(2) / slope[0] == pytest.approx(half_life, rel=5e-3)


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize(("b_z", "b_r", "expected"), [(40, 0, np.eye(H)), (-40, -40, np.zeros(H))])
def test_gru_keeps_all_with_z_at_one_and_nothing_with_z_and_r_at_zero(reset, b_z, b_r, expected):
  cell, params = make_cell("gru", H, reset=reset), params_of(3)
  b = params["b"].at[:H].set(b_z).at[H : 2 * H].set(b_r)
  jacobian = step_jacobian(cell, {**params, "b": b}, draw(4, H), draw(3, D))
  np.testing.assert_allclose(jacobian, np.broadcast_to(expected, (H, H)), atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_init_draws_an_orthogonal_kernel_for_each_gate(name):
  w_h = make_cell(name, H).init(jax.random.key(0), D)["w_h"]
  for gate in np.split(w_h, w_h.shape[1] // H, axis=1):
    close(gate @ gate.T, np.eye(H), atol=1e-13)
