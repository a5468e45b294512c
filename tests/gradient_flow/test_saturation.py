"""Gate values reproduce the carry, and the saturated fractions equal NumPy's counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import gate_values, saturation

T, B, D, H = 5, 3, 2, 4


def draw(seed, *shape):
  return jnp.asarray(1.5 * np.random.default_rng(seed).standard_normal(shape), float)


def network(cells, seed=0):
  params, input_size = [], D
  for depth, cell in enumerate(cells):
    shapes = jax.eval_shape(lambda cell=cell, size=input_size: cell.init(jax.random.key(0), size))
    params.append({k: draw(seed + 10 * depth + len(k), *a.shape) for k, a in shapes.items()})
    input_size = H
  return params


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_lstm_gates_reproduce_the_carry():
  cell, xs = make_cell("lstm", H), draw(80, T, B, D)
  params = network([cell])

  @jax.jit
  def run(xs):
    watched = cell._replace(output=lambda p, carry, drive: carry)
    return gate_values([cell], params, xs), unroll(watched, params[0], xs)[1]

  (gates,), carries = run(xs)
  assert set(gates) == {"input", "forget", "output"}
  # h_t = o tanh c_t and c_t = f c_{t−1} + i g. g is computed from the params here, because it is
  # not a gate and `gate_values` does not return it.
  before = np.concatenate([np.zeros((1, B, H)), carries.hidden[:-1]])
  w_x, w_h, b = (np.asarray(params[0][k])[..., 2 * H : 3 * H] for k in ("w_x", "w_h", "b"))
  g = np.tanh(np.asarray(xs) @ w_x + before @ w_h + b)
  cell_before = np.concatenate([np.zeros((1, B, H)), carries.cell[:-1]])
  close(carries.cell, gates["forget"] * cell_before + gates["input"] * g)
  close(carries.hidden, gates["output"] * np.tanh(carries.cell))


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gru_gates_reproduce_the_carry(reset):
  cell, xs = make_cell("gru", H, reset=reset), draw(80, T, B, D)
  params = network([cell])
  ((gates,), hs) = jax.jit(
    lambda xs: (gate_values([cell], params, xs), unroll(cell, params[0], xs)[1])
  )(xs)
  assert set(gates) == {"update", "reset"}
  before = np.concatenate([np.zeros((1, B, H)), hs[:-1]])
  w_x, u, b = (np.asarray(params[0][name])[..., 2 * H :] for name in ("w_x", "w_h", "b"))
  z, r, drive = np.asarray(gates["update"]), np.asarray(gates["reset"]), np.asarray(xs) @ w_x + b
  n = np.tanh(drive + (r * (before @ u) if reset == "after" else (r * before) @ u))
  close(hs, z * before + (1 - z) * n)


def test_saturated_fractions_are_counted_per_gate_layer_and_step():
  cells = [make_cell("lstm", H), make_cell("elman", H), make_cell("gru", H)]
  params, xs = network(cells), draw(80, T, B, D)
  values, shares = jax.jit(
    lambda xs: (gate_values(cells, params, xs), saturation(cells, params, xs))
  )(xs)
  assert values[1] == shares[1] == {}
  for layer in (0, 2):
    assert set(shares[layer]) == set(values[layer])
    for name, gate in values[layer].items():
      assert gate.shape == (T, B, H)
      flat = np.asarray(gate).reshape(T, -1)
      close(shares[layer][name].high, np.mean(flat > 0.9, axis=1))
      close(shares[layer][name].low, np.mean(flat < 0.1, axis=1))
      assert np.any(shares[layer][name].high > 0)


def test_a_forget_gate_held_by_its_bias_is_open_or_shut_at_every_step():
  cell = make_cell("lstm", H)

  @jax.jit
  def shares(bias):
    b = jnp.zeros(4 * H).at[H : 2 * H].set(bias)
    params = {"w_x": jnp.zeros((D, 4 * H)), "w_h": jnp.zeros((H, 4 * H)), "b": b}
    return saturation([cell], [params], jnp.zeros((T, B, D)))[0]

  for bias, high, low in ((5.0, 1, 0), (0.0, 0, 0), (-5.0, 0, 1)):
    found = shares(bias)
    np.testing.assert_array_equal(found["forget"].high, np.full(T, high))
    np.testing.assert_array_equal(found["forget"].low, np.full(T, low))
    assert not np.any(found["input"].high)


def test_a_network_without_gates_is_refused():
  cells = [make_cell("elman", H)] * 2
  with pytest.raises(
    ValueError, match=r"cells must include one with gates.*none of these 2 has any"
  ):
    saturation(cells, network(cells), draw(80, T, B, D))
