"""Cells against their equations in NumPy, and against the cells of Flax with the same weights."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import make_cell, unroll
from rnn_jax.cells import LSTMCarry

T, B, D, H = 6, 2, 3, 4


def drawn(shapes, seed):
  random = np.random.default_rng(seed)
  return {name: 0.7 * random.standard_normal(shape) for name, shape in shapes.items()}


def params_of(num_gates):
  width = num_gates * H
  return drawn({"w_x": (D, width), "w_h": (H, width), "b": (width,)}, seed=1)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def blocks(params, num_gates):
  """(W, U, b) of each gate, in order."""
  split = (np.split(params[name], num_gates, axis=-1) for name in ("w_x", "w_h", "b"))
  return list(zip(*split, strict=True))


def elman_reference(phi, params, h, x):
  return phi(x @ params["w_x"] + h @ params["w_h"] + params["b"])


def gru_reference(reset, params, h, x):
  (w_z, u_z, b_z), (w_r, u_r, b_r), (w_n, u_n, b_n) = blocks(params, 3)
  z = sigmoid(x @ w_z + h @ u_z + b_z)
  r = sigmoid(x @ w_r + h @ u_r + b_r)
  inner = r * (h @ u_n) if reset == "after" else (r * h) @ u_n
  n = np.tanh(x @ w_n + b_n + inner)
  return z * h + (1 - z) * n


def lstm_reference(params, carry, x):
  h, c = carry
  i, f, g, o = (x @ w + h @ u + b for w, u, b in blocks(params, 4))
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  return LSTMCarry(sigmoid(o) * np.tanh(c), c)


REFERENCES = {
  ("elman", "activation", "tanh"): (1, functools.partial(elman_reference, np.tanh)),
  ("elman", "activation", "linear"): (1, functools.partial(elman_reference, lambda a: a)),
  ("elman", "activation", "relu"): (
    1,
    functools.partial(elman_reference, lambda a: np.maximum(a, 0)),
  ),
  ("gru", "reset", "after"): (3, functools.partial(gru_reference, "after")),
  ("gru", "reset", "before"): (3, functools.partial(gru_reference, "before")),
  ("lstm", "forget_bias", 1.0): (4, lstm_reference),
}


@pytest.mark.parametrize("which", REFERENCES, ids=lambda which: f"{which[0]}-{which[2]}")
def test_cell_is_its_equation(x64, which):
  name, option, value = which
  num_gates, reference = REFERENCES[which]
  cell = make_cell(name, H, **{option: value})
  params = params_of(num_gates)
  random = np.random.default_rng(2)
  xs = random.standard_normal((T, B, D))
  carry = jax.tree.map(
    lambda a: random.standard_normal(a.shape), cell.initial_carry((B,), jnp.float64)
  )

  final, ys = unroll(cell, jax.tree.map(jnp.asarray, params), xs, carry)

  for t, x in enumerate(xs):
    carry = reference(params, carry, x)
    y = carry.hidden if name == "lstm" else carry
    np.testing.assert_allclose(ys[t], y, rtol=1e-12, atol=1e-14)
  chex.assert_trees_all_close(final, carry, rtol=1e-12, atol=1e-14)


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
def test_outputs_and_gradients_are_those_of_flax(x64, name, num_gates, peer, mapped):
  cell, theirs = make_cell(name, H), peer(H)
  params = jax.tree.map(jnp.asarray, params_of(num_gates))
  random = np.random.default_rng(3)
  xs = jnp.asarray(random.standard_normal((T, B, D)))
  weights = jnp.asarray(random.standard_normal((T, B, H)))
  zeros = jnp.zeros((B, H))
  start = (zeros, zeros) if name == "lstm" else zeros  # Flax: (cell, hidden)

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
