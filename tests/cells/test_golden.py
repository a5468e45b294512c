"""The Elman network, GRU and LSTM match their equations in NumPy, and Flax's cells."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, blocks, check, sigmoid

from rnn_jax import make_cell, unroll
from rnn_jax.cells import LSTMCarry


def drawn(shapes, seed):
  random = np.random.default_rng(seed)
  return {name: 0.7 * random.standard_normal(shape) for name, shape in shapes.items()}


def params_of(num_gates):
  width = num_gates * H
  return drawn({"w_x": (D, width), "w_h": (H, width), "b": (width,)}, seed=1)


def elman_reference(phi, params, h, x):
  h = phi(x @ params["w_x"] + h @ params["w_h"] + params["b"])
  return h, h


def gru_reference(reset, params, h, x):
  (w_z, u_z, b_z), (w_r, u_r, b_r), (w_n, u_n, b_n) = blocks(params, 3)
  z = sigmoid(x @ w_z + h @ u_z + b_z)
  r = sigmoid(x @ w_r + h @ u_r + b_r)
  b_h = params.get("b_h", 0)
  inner = r * (h @ u_n + b_h) if reset == "after" else (r * h) @ u_n
  n = np.tanh(x @ w_n + b_n + inner)
  h = z * h + (1 - z) * n
  return h, h


def update_only_reference(params, c, x):
  (w_u, u_u, b_u), (w_c, u_c, b_c) = blocks(params, 2)
  # The textbook's gate is 1 − z, hence the minus sign.
  gate = sigmoid(-(x @ w_u + c @ u_u + b_u))
  c = gate * np.tanh(x @ w_c + c @ u_c + b_c) + (1 - gate) * c
  return c, c


def lstm_reference(params, carry, x):
  h, c = carry
  i, f, g, o = (x @ w + h @ u + b for w, u, b in blocks(params, 4))
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(c)
  return LSTMCarry(h, c), h


REFERENCES = {
  "tanh": (make_cell("elman", H), functools.partial(elman_reference, np.tanh)),
  "linear": (
    make_cell("elman", H, activation="linear"),
    functools.partial(elman_reference, lambda a: a),
  ),
  "relu": (
    make_cell("elman", H, activation="relu"),
    functools.partial(elman_reference, lambda a: np.maximum(a, 0)),
  ),
  "gru": (make_cell("gru", H), functools.partial(gru_reference, "after")),
  "gru, inner bias": (
    make_cell("gru", H, inner_bias=True),
    functools.partial(gru_reference, "after"),
  ),
  "gru, before": (make_cell("gru", H, reset="before"), functools.partial(gru_reference, "before")),
  "gru, no reset": (make_cell("gru", H, reset="none"), update_only_reference),
  "lstm": (make_cell("lstm", H), lstm_reference),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_cell_matches_its_equation(x64, name):
  check(*REFERENCES[name])


def test_an_inner_bias_needs_a_reset_after_the_product():
  with pytest.raises(ValueError, match="inner_bias is for reset='after', got reset='before'"):
    make_cell("gru", H, reset="before", inner_bias=True)


def test_chrono_gru_biases_cover_all_time_scales():
  cell = make_cell("gru", 1000, reset="none", chrono=50, recurrent_kernel="identity")
  b = cell.init(jax.random.key(0), 1)["b"]
  u = np.exp(b[:1000])
  assert 1 <= u.min() < 1.2 and 48.8 < u.max() <= 49
  np.testing.assert_allclose(u.mean(), 25, rtol=0.05)
  assert not b[1000:].any()


def flax_elman(params):
  return {"i": {"kernel": params["w_x"], "bias": params["b"]}, "h": {"kernel": params["w_h"]}}


def flax_gru(params):
  (w_z, u_z, b_z), (w_r, u_r, b_r), (w_n, u_n, b_n) = split(params, 3)
  return {
    "iz": {"kernel": w_z, "bias": b_z},
    "ir": {"kernel": w_r, "bias": b_r},
    "in": {"kernel": w_n, "bias": b_n},
    "hz": {"kernel": u_z},
    "hr": {"kernel": u_r},
    "hn": {"kernel": u_n, "bias": jnp.zeros_like(b_n)},
  }


def flax_lstm(params):
  tree = {}
  for gate, (w, u, b) in zip("ifgo", split(params, 4), strict=True):
    tree[f"i{gate}"] = {"kernel": w}
    tree[f"h{gate}"] = {"kernel": u, "bias": b}
  return tree


def split(params, num_gates):
  parts = (jnp.split(params[name], num_gates, axis=-1) for name in ("w_x", "w_h", "b"))
  return list(zip(*parts, strict=True))


@pytest.mark.parametrize(
  ("name", "num_gates", "peer", "mapped"),
  [
    ("elman", 1, nn.SimpleCell, flax_elman),
    ("gru", 3, nn.GRUCell, flax_gru),
    ("lstm", 4, nn.LSTMCell, flax_lstm),
    ("lstm", 4, nn.OptimizedLSTMCell, flax_lstm),
  ],
)
def test_outputs_and_gradients_equal_those_of_flax(x64, name, num_gates, peer, mapped):
  cell, theirs = make_cell(name, H), peer(H)
  params = jax.tree.map(jnp.asarray, params_of(num_gates))
  random = np.random.default_rng(3)
  xs = jnp.asarray(random.standard_normal((T, B, D)))
  weights = jnp.asarray(random.standard_normal((T, B, H)))
  zeros = jnp.zeros((B, H))
  start = (zeros, zeros) if name == "lstm" else zeros  # Flax's order is (cell, hidden)

  def our_loss(params, xs):
    _, ys = unroll(cell, params, xs)
    return jnp.sum(weights * ys), ys

  def their_loss(params, xs):
    variables = {"params": mapped(params)}
    _, ys = jax.lax.scan(lambda carry, x: theirs.apply(variables, carry, x), start, xs)
    return jnp.sum(weights * ys), ys

  ours, peers = (
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, xs)
    for loss in (our_loss, their_loss)
  )
  chex.assert_trees_all_close(ours, peers, rtol=1e-10, atol=1e-12)
