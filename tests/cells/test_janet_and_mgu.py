"""JANET and MGU, which have one gate: equations in NumPy, initial values, and gradients."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, blocks, check, draw, sigmoid

from rnn_jax import make_cell, step, unroll


def janet(beta, params, h, x):
  s, n = (x @ w + h @ u + b for w, u, b in blocks(params, 2))
  h = sigmoid(s) * h + (1 - sigmoid(s - beta)) * np.tanh(n)
  return h, h


def mgu_of_flax(params, h, x):
  (w_f, u_f, b_f), (w_n, u_n, b_n) = blocks(params, 2)
  f = sigmoid(x @ w_f + h @ u_f + b_f)
  n = np.tanh(x @ w_n + b_n + f * (h @ u_n))
  h = f * h + (1 - f) * n
  return h, h


def mgu_of_the_paper(params, h, x):
  (w_f, u_f, b_f), (w_n, u_n, b_n) = blocks(params, 2)
  # The paper's gate is our cell's 1 − f, hence the minus sign.
  f = sigmoid(-(x @ w_f + h @ u_f + b_f))
  n = np.tanh(x @ w_n + (f * h) @ u_n + b_n)
  h = (1 - f) * h + f * n
  return h, h


REFERENCES = {
  "janet": (make_cell("janet", H), lambda *args: janet(1.0, *args)),
  "janet, beta": (make_cell("janet", H, beta=-0.5), lambda *args: janet(-0.5, *args)),
  "mgu": (make_cell("mgu", H), mgu_of_flax),
  "mgu, before": (make_cell("mgu", H, reset="before"), mgu_of_the_paper),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_cell_matches_its_equation(x64, name):
  check(*REFERENCES[name])


def test_mgu_equals_flax_with_the_same_weights(x64):
  cell, peer = make_cell("mgu", H), nn.MGUCell(H, param_dtype=jnp.float64)
  random = np.random.default_rng(0)
  params = draw(random, cell.init(jax.random.key(0), D), 0.7)
  (w_f, u_f, b_f), (w_n, u_n, b_n) = blocks(params, 2)
  theirs = {
    "if": {"kernel": w_f, "bias": b_f},
    "in": {"kernel": w_n, "bias": b_n},
    "hf": {"kernel": u_f},
    "hn": {"kernel": u_n, "bias": np.zeros(H)},
  }
  xs, h = random.standard_normal((T, B, D)), jnp.zeros((B, H))

  @jax.jit
  def both(xs):
    ours = unroll(cell, params, xs)
    return ours, jax.lax.scan(lambda h, x: peer.apply({"params": theirs}, h, x), h, xs)

  chex.assert_trees_all_close(*both(xs), rtol=1e-12)


def initial(name, hidden_size=H, **options):
  # Use identity kernels, because the default orthogonal ones take longer to initialize.
  init = make_cell(name, hidden_size, recurrent_kernel="identity", **options).init
  return jax.jit(lambda key: init(key, D))(jax.random.key(0))


@pytest.mark.parametrize("name", ["janet", "mgu"])
def test_initial_forget_bias_is_one_by_default(name):
  for options, bias in (({}, 1), ({"forget_bias": -2}, -2)):
    b = initial(name, **options)["b"]
    np.testing.assert_array_equal(b, np.repeat([bias, 0], H))


def test_chrono_janet_biases_cover_all_time_scales():
  b_s, b_n = np.split(initial("janet", 1000, chrono=50)["b"], 2)
  u = np.exp(b_s)
  assert 1 <= u.min() < 1.3 and 48.7 < u.max() <= 49
  np.testing.assert_allclose(u.mean(), 25, rtol=0.05)
  assert not b_n.any()


@pytest.mark.parametrize(
  ("name", "options"), [("janet", {}), ("mgu", {}), ("mgu", {"reset": "before"})]
)
def test_an_open_forget_gate_passes_the_gradient_through_unchanged(x64, name, options):
  cell = make_cell(name, H, forget_bias=60.0, **options)
  params = initial(name, forget_bias=60.0, **options)
  random = np.random.default_rng(0)
  h, x = (jnp.asarray(random.standard_normal(size)) for size in (H, D))
  moved = jax.jit(jax.jacrev(lambda h: step(cell, params, h, cell.project(params, x))))
  np.testing.assert_allclose(moved(h), np.eye(H), atol=1e-12)


def test_mgu_at_zero_averages_the_carry_and_the_candidate(x64):
  cell = make_cell("mgu", H)
  u = np.random.default_rng(0).standard_normal((H, 2 * H))
  params = {**initial("mgu", forget_bias=0.0), "w_h": u}

  @jax.jit
  @jax.jacrev
  def jacobian(h):
    return step(cell, params, h, cell.project(params, jnp.zeros(D)))

  np.testing.assert_allclose(jacobian(jnp.zeros(H)), np.eye(H) / 2 + u[:, H:].T / 4, atol=1e-13)
