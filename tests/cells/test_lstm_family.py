"""The LSTM and its variants: equations in NumPy, initial values, and properties of gradients."""

from __future__ import annotations

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, blocks, check, sigmoid

from rnn_jax import CELLS, make_cell, step, unroll
from rnn_jax.cells import LSTMCarry


def no_forget_gate(params, carry, x):
  h, c = carry
  i, g, o = (x @ w + h @ u + b for w, u, b in blocks(params, 3))
  c = c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(c)
  return LSTMCarry(h, c), h


def peephole(params, carry, x):
  h, c = carry
  i, f, g, o = (x @ w + h @ u + b for w, u, b in blocks(params, 4))
  p_i, p_f, p_o = np.split(params["p"], 3)
  c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
  h = sigmoid(o + p_o * c) * np.tanh(c)
  return LSTMCarry(h, c), h


def normal(v, scale, shift=0.0):
  deviation = v - v.mean(axis=-1, keepdims=True)
  spread = np.sqrt((deviation**2).mean(axis=-1, keepdims=True) + 1e-6)
  return scale * deviation / spread + shift


def layer_norm(params, carry, x):
  h, c = carry
  a = normal(x @ params["w_x"], params["scale_x"]) + normal(h @ params["w_h"], params["scale_h"])
  i, f, g, o = np.split(a + params["b"], 4, axis=-1)
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(normal(c, params["scale_c"], params["shift_c"]))
  return LSTMCarry(h, c), h


def multiplicative(params, carry, x):
  h, c = carry
  w_mx, *w = np.split(params["w_x"], 5, axis=-1)
  m = (x @ w_mx) * (h @ params["w_h"])
  gates = zip(w, np.split(params["w_m"], 4, axis=-1), np.split(params["b"], 4), strict=True)
  i, f, g, o = (x @ w_g + m @ u_g + b_g for w_g, u_g, b_g in gates)
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(c)
  return LSTMCarry(h, c), h


def zoned_out(params, carry, x):
  h, c = carry
  i, f, g, o = (x @ w + h @ u + b for w, u, b in blocks(params, 4))
  moved = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  h = 0.2 * h + 0.8 * sigmoid(o) * np.tanh(moved)
  return LSTMCarry(h, 0.7 * c + 0.3 * moved), h


REFERENCES = {
  "lstm, no forget gate": (make_cell("lstm", H, forget_gate=False), no_forget_gate),
  "peephole_lstm": (make_cell("peephole_lstm", H), peephole),
  "layer_norm_lstm": (make_cell("layer_norm_lstm", H), layer_norm),
  "multiplicative_lstm": (make_cell("multiplicative_lstm", H), multiplicative),
  "zoneout_lstm": (make_cell("zoneout_lstm", H, rate_hidden=0.2, rate_cell=0.7), zoned_out),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_cell_matches_its_equation(x64, name):
  check(*REFERENCES[name])


def initial(name, hidden_size=H, recurrent_kernel="identity", **options):
  # Use identity kernels, because the default orthogonal ones take longer to initialize.
  init = make_cell(name, hidden_size, recurrent_kernel=recurrent_kernel, **options).init
  return jax.jit(lambda key: init(key, D))(jax.random.key(0))


@pytest.mark.parametrize("name", [n for n in REFERENCES if n in CELLS])
def test_the_initial_forget_bias_is_an_option(name):
  b = initial(name, forget_bias=-2)["b"]
  np.testing.assert_array_equal(b, np.repeat([0, -2, 0, 0], H))
  assert inspect.signature(CELLS[name]).parameters["forget_bias"].default == 1


def test_initial_peepholes_are_zero_and_scales_are_one():
  assert not initial("peephole_lstm")["p"].any()
  params = initial("layer_norm_lstm")
  for scale, width in (("scale_x", 4 * H), ("scale_h", 4 * H), ("scale_c", H)):
    np.testing.assert_array_equal(params[scale], np.ones(width))
  np.testing.assert_array_equal(params["shift_c"], np.zeros(H))


def test_initial_recurrent_kernels_of_a_multiplicative_lstm_are_orthogonal(x64):
  params = initial("multiplicative_lstm", recurrent_kernel="orthogonal")
  for u in (params["w_h"], *np.split(params["w_m"], 4, axis=-1)):
    np.testing.assert_allclose(u @ u.T, np.eye(H), atol=1e-13)
  assert params["w_x"].shape == (D, 5 * H)
  # The block W_m of w_x is LeCun normal, like the gates' blocks.
  w_x = initial("multiplicative_lstm", 400)["w_x"]
  np.testing.assert_allclose(np.var(w_x[:, :400]), 1 / D, rtol=0.15)


def test_chrono_lstm_biases_cover_all_time_scales_and_b_i_is_minus_b_f():
  b_i, b_f, b_g, b_o = np.split(initial("lstm", 1000, chrono=50, forget_bias=3)["b"], 4)
  u = np.exp(b_f)
  assert 1 <= u.min() < 1.3 and 48.7 < u.max() <= 49
  np.testing.assert_allclose(u.mean(), 25, rtol=0.05)
  np.testing.assert_array_equal(b_i, -b_f)
  assert not b_g.any() and not b_o.any()


@pytest.mark.parametrize("name", ["gru", "janet", "lstm"])
def test_an_invalid_chrono_is_named(name):
  with pytest.raises(ValueError, match="chrono must be greater than 2, got 1"):
    make_cell(name, H, chrono=1)


def test_chrono_needs_a_forget_gate():
  with pytest.raises(ValueError, match="chrono is for forget_gate=True, got chrono=9 without"):
    make_cell("lstm", H, chrono=9, forget_gate=False)


def test_without_a_forget_gate_the_cell_state_gradient_never_decays(x64):
  cell = make_cell("lstm", H, forget_gate=False)
  random = np.random.default_rng(0)
  params = {
    **jax.tree.map(jnp.asarray, cell.init(jax.random.key(0), D)),
    "w_h": jnp.zeros((H, 3 * H)),
  }
  xs = jnp.asarray(random.standard_normal((50, 1, D)))

  @jax.jit
  @jax.jacrev
  def last(c):
    final, _ = unroll(cell, params, xs, LSTMCarry(jnp.zeros((1, H)), c[None]))
    return final.cell[0]

  np.testing.assert_array_equal(last(jnp.ones(H)), np.eye(H))


def test_a_layer_norm_lstm_is_invariant_to_the_scale_of_its_kernels(x64):
  cell = make_cell("layer_norm_lstm", H)
  params = initial("layer_norm_lstm")
  random = np.random.default_rng(0)
  carry = LSTMCarry(*jnp.asarray(random.standard_normal((2, 1, H))))
  x = jnp.asarray(random.standard_normal((1, D)))

  @jax.jit
  def moved(w_x, w_h):
    given = {**params, "w_x": w_x, "w_h": w_h}
    return step(cell, given, carry, cell.project(given, x))

  # The invariance is exact only for ε = 0, so use kernels so large that ε is negligible.
  w_x, w_h = 1e6 * params["w_x"], 1e6 * params["w_h"]
  chex.assert_trees_all_close(moved(3 * w_x, 5 * w_h), moved(w_x, w_h), rtol=1e-10)
  assert np.max(np.abs(moved(w_x, -w_h).cell - moved(w_x, w_h).cell)) > 1e-3


def test_a_layer_norm_lstm_amplifies_gradients_at_a_zero_carry(x64):
  cell, params = make_cell("layer_norm_lstm", H), initial("layer_norm_lstm")
  u = jnp.asarray(np.random.default_rng(0).standard_normal((H, 4 * H)))

  @jax.jit
  @jax.jacrev
  def moved(h):
    given = {**params, "w_h": u}
    return step(cell, given, LSTMCarry(h, jnp.zeros(H)), cell.project(given, jnp.zeros(D))).hidden

  u_g = np.split(u, 4, axis=-1)[2]
  expected = (u_g - u_g.mean(axis=-1, keepdims=True)) / 4e-6
  np.testing.assert_allclose(moved(jnp.zeros(H)).T, expected, rtol=1e-12)


def test_a_zero_input_blocks_the_path_through_h_of_a_multiplicative_lstm(x64):
  cell, params = make_cell("multiplicative_lstm", H), initial("multiplicative_lstm")

  @functools.partial(jax.jit, static_argnums=0)
  def to_hidden(size):
    def moved(h):
      carry = LSTMCarry(h, jnp.ones(H))
      return step(cell, params, carry, cell.project(params, jnp.full(D, size)))

    return jax.jacrev(moved)(jnp.ones(H))

  assert not np.any(to_hidden(0.0).hidden) and not np.any(to_hidden(0.0).cell)
  assert np.min(np.max(np.abs(to_hidden(1.0).cell), axis=-1)) > 1e-3


def test_default_rates_of_a_zoneout_lstm_match_the_paper():
  rates = inspect.signature(CELLS["zoneout_lstm"]).parameters
  assert (rates["rate_hidden"].default, rates["rate_cell"].default) == (0.05, 0.5)


@pytest.mark.parametrize("rate", ["rate_hidden", "rate_cell"])
def test_rates_are_from_0_to_1(rate):
  with pytest.raises(ValueError, match=f"{rate} must be at most 1, got 1.5"):
    make_cell("zoneout_lstm", H, **{rate: 1.5})
