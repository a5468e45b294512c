"""The sLSTM: its equation in NumPy, its stabilizer, extreme inputs, and initial values."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, check, draw, sigmoid

from rnn_jax import gradient_probe, make_cell, unroll
from rnn_jax.cells import SLSTMCarry


def activations(params, h, x, num_heads):
  """Returns the pre-activations of i, f, g, o, computed by loops over gates and heads."""
  width = H // num_heads
  a = x @ params["w_x"] + params["b"]
  for gate in range(4):
    for head in range(num_heads):
      units = slice(head * width, (head + 1) * width)
      columns = slice(gate * H + head * width, gate * H + (head + 1) * width)
      a[:, columns] += h[:, units] @ params["w_h"][:, columns]
  return np.split(a, 4, axis=-1)


def stabilized(num_heads, params, carry, x):
  h, c, n, m = carry
  i, f, g, o = activations(params, h, x, num_heads)
  kept = -np.log1p(np.exp(-f)) + m
  new = np.maximum(i, kept)
  c = np.exp(kept - new) * c + np.exp(i - new) * np.tanh(g)
  n = np.exp(kept - new) * n + np.exp(i - new)
  h = sigmoid(o) * c / n
  return SLSTMCarry(h, c, n, new), h


@pytest.mark.parametrize("num_heads", [1, 2])
def test_cell_matches_its_equation(x64, num_heads):
  check(make_cell("slstm", H, num_heads=num_heads), lambda *args: stabilized(num_heads, *args))


def problem(scale=0.7, dtype=jnp.float64, num_steps=T):
  cell = make_cell("slstm", H)
  random = np.random.default_rng(1)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, dtype)), 0.7)
  xs = scale * random.standard_normal((num_steps, B, D))
  return cell, params, xs.astype(dtype)


def test_the_stabilizer_has_no_effect_on_outputs_from_an_empty_memory(x64):
  cell, params, xs = problem()
  _, ys = jax.jit(lambda: unroll(cell, params, xs))()
  h = c = n = np.zeros((B, H))
  for x, y in zip(xs, ys, strict=True):
    i, f, g, o = activations(params, h, x, 1)
    c = sigmoid(f) * c + np.exp(i) * np.tanh(g)
    n = sigmoid(f) * n + np.exp(i)
    h = sigmoid(o) * c / n
    np.testing.assert_allclose(y, h, rtol=1e-12)


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_values_and_gradients_are_finite_at_extreme_inputs_in_float32(sign):
  cell, params, xs = problem(200, np.float32, num_steps=20)
  xs = np.sign(xs) * np.float32(200) if sign == 0 else np.full_like(xs, sign * 200)
  # Make all input weights positive, so that their contributions do not cancel and all gates
  # saturate.
  params = {**params, "w_x": np.abs(params["w_x"])}

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    return jnp.sum(unroll(cell, params, xs)[1] ** 2)

  value, grads = loss(params)
  assert 0 <= value <= 20 * B * H
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_stabilizer_only_rescales_cell_and_normalizer(x64):
  # (c, n, m) and (λ c, λ n, m − ln λ) give the same outputs, so dL/dm = c dL/dc + n dL/dn.
  cell, params, xs = problem()

  @jax.jit
  def run(carry):
    def loss(carry):
      return jnp.sum(jnp.sin(unroll(cell, params, xs, carry)[1]))

    return jax.value_and_grad(loss)(carry)

  random = np.random.default_rng(3)
  h, c = (jnp.asarray(random.standard_normal((B, H))) for _ in range(2))
  n, m = jnp.asarray(1 + random.random((B, H))), jnp.asarray(random.standard_normal((B, H)))
  value, bar = run(SLSTMCarry(h, c, n, m))
  again, _ = run(SLSTMCarry(h, 7 * c, 7 * n, m - np.log(7)))
  np.testing.assert_allclose(again, value, rtol=1e-13)
  np.testing.assert_allclose(bar.stabilizer, c * bar.cell + n * bar.normalizer, rtol=1e-9)
  assert np.min(np.abs(bar.stabilizer)) > 0


def test_without_recurrence_all_past_steps_weigh_equally(x64):
  # The params make exp(i) = 1 and f = o = 1 at every step, so that h is the plain mean of all g.
  cell = make_cell("slstm", H)
  random = np.random.default_rng(0)
  w_g = random.standard_normal((D, H))
  none = np.zeros_like(w_g)
  params = {
    "w_x": np.concatenate([none, none, w_g, none], axis=-1),
    "w_h": np.zeros((H, 4 * H)),
    "b": np.repeat([0.0, 50.0, 0.0, 50.0], H),
  }
  xs = random.standard_normal((T, B, D))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(probe):
    _, ys = unroll(cell, params, xs, probe=probe)
    return jnp.sum(ys[-1]), ys[-1]

  norms, last = run(gradient_probe(cell, T, B, jnp.float64))
  np.testing.assert_allclose(last, np.tanh(xs @ w_g).mean(axis=0), rtol=1e-12)
  # With f' = 1, c and n are plain sums, and n_t = t, so dL/dc_t = 1 / n_T = 1 / T for every t < T.
  np.testing.assert_allclose(norms.cell[:-1], np.sqrt(H) / T, rtol=1e-12)
  np.testing.assert_allclose(norms.hidden[-1], np.sqrt(H), rtol=1e-12)


def initial(hidden_size, **options):
  init = make_cell("slstm", hidden_size, **options).init
  return jax.jit(lambda key: init(key, D))(jax.random.key(0))


def test_initial_values_match_the_authors(x64):
  params = initial(12, num_heads=3)
  i, f, g, o = np.split(params["b"], 4)
  head = 5 - 12 * (np.arange(4) / 3) ** 0.3
  np.testing.assert_allclose(f, np.tile(head, 3), rtol=1e-13)
  assert not np.any([i, g, o]) and not params["w_h"].any()
  assert params["w_h"].shape == (4, 48)
  linear = initial(4, forget_biases="linear")["b"]
  np.testing.assert_allclose(linear[4:8], [3, 4, 5, 6], rtol=1e-13)


def test_heads_must_divide_the_hidden_size():
  with pytest.raises(ValueError, match="num_heads must divide hidden_size 4, got 3"):
    make_cell("slstm", H, num_heads=3)
