"""The mLSTM: its equation in NumPy, its stabilizer and step Jacobian, and initial values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, check, draw, sigmoid

from rnn_jax import make_cell, step, unroll
from rnn_jax.cells import MLSTMCarry


def activations(params, x, num_heads, activation):
  """Returns q, k, v [B, N, P], the gate o [B, H], and ln i, ln f [B, N]."""
  a, b = x @ params["w_x"], params["b"]
  parts = [slice(i * H, (i + 1) * H) for i in range(4)]
  q, k, v, o = (a[:, part] + b[part] for part in parts)
  k = a[:, parts[1]] / np.sqrt(H / num_heads) + b[parts[1]]
  i, f = np.split(a[:, 4 * H :] + b[4 * H :], 2, axis=-1)
  q, k, v = (part.reshape(len(x), num_heads, -1) for part in (q, k, v))
  return q, k, v, sigmoid(o), i, np.log(sigmoid(f)) if activation == "sigmoid" else f


def stabilized(num_heads, activation, params, carry, x):
  q, k, v, o, i, f = activations(params, x, num_heads, activation)
  c, n, m = carry
  new = np.maximum(i, f + m)
  i, f = np.exp(i - new), np.exp(f + m - new)
  c = f[..., None, None] * c + i[..., None, None] * k[..., :, None] * v[..., None, :]
  n = f[..., None] * n + i[..., None] * k
  total = np.maximum(np.abs((q * n).sum(-1)), np.exp(-new))
  y = o * np.einsum("bnk,bnkv,bn->bnv", q, c, 1 / total).reshape(len(x), H)
  return MLSTMCarry(c, n, new), y


@pytest.mark.parametrize(
  ("num_heads", "activation"), [(1, "sigmoid"), (2, "sigmoid"), (2, "exponential")]
)
def test_cell_matches_its_equation(x64, num_heads, activation):
  cell = make_cell("mlstm", H, num_heads=num_heads, forget_activation=activation)
  check(cell, lambda *args: stabilized(num_heads, activation, *args))


def problem(scale=0.7, dtype=jnp.float64, num_steps=T, **options):
  cell = make_cell("mlstm", H, num_heads=2, **options)
  random = np.random.default_rng(1)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, dtype)), 0.7)
  xs = scale * random.standard_normal((num_steps, B, D))
  return cell, params, xs.astype(dtype)


@pytest.mark.parametrize("activation", ["sigmoid", "exponential"])
def test_the_stabilizer_has_no_effect_on_outputs(x64, activation):
  cell, params, xs = problem(forget_activation=activation)
  _, ys = jax.jit(lambda: unroll(cell, params, xs))()
  c, n = np.zeros((B, 2, H // 2, H // 2)), np.zeros((B, 2, H // 2))
  for x, y in zip(xs, ys, strict=True):
    q, k, v, o, i, f = activations(params, x, 2, activation)
    i, f = np.exp(i)[..., None], np.exp(f)[..., None]
    c = f[..., None] * c + (i * k)[..., :, None] * v[..., None, :]
    n = f * n + i * k
    total = np.maximum(np.abs((q * n).sum(-1)), 1)
    expected = o * np.einsum("bnk,bnkv,bn->bnv", q, c, 1 / total).reshape(B, H)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


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
  assert np.isfinite(value) and value >= 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_step_jacobian_of_the_memory_is_the_forget_gate(x64):
  cell, params, xs = problem()
  x = jnp.asarray(xs[0])
  carry = draw(np.random.default_rng(2), cell.initial_carry((B,), jnp.float64), 1)

  def unscaled(carry):
    scale = jnp.exp(carry.stabilizer)
    return scale[..., None, None] * carry.memory, scale[..., None] * carry.normalizer

  @jax.jit
  def both(carry):
    prepared = cell.prepare(params)
    drive = cell.project(prepared, x)
    new, tangent = jax.jvp(
      lambda c: step(cell, prepared, carry._replace(memory=c), drive), (carry.memory,), (direction,)
    )
    size = jnp.exp(drive.log_forget + carry.stabilizer - new.stabilizer)
    gates = cell.gates(prepared, carry, drive, ())
    return new, tangent, size, gates["forget"]

  direction = np.ones_like(carry.memory)
  new, tangent, size, forget = both(carry)
  np.testing.assert_allclose(
    tangent.memory, np.broadcast_to(size[..., None, None], direction.shape)
  )
  # In units of the unscaled memory the factor is the gate itself.
  forget = forget.reshape(B, 2, H // 2)[..., 0]
  np.testing.assert_allclose(size * np.exp(new.stabilizer - carry.stabilizer), forget)
  moved = unscaled(MLSTMCarry(tangent.memory, new.normalizer, new.stabilizer))[0]
  np.testing.assert_allclose(
    moved, forget[..., None, None] * unscaled(carry._replace(memory=direction))[0]
  )


def test_the_gradient_of_the_stabilizer_follows_from_those_of_memory_and_normalizer(x64):
  cell, params, xs = problem()
  carry = draw(np.random.default_rng(2), cell.initial_carry((B,), jnp.float64), 1)
  weights = np.random.default_rng(3).standard_normal((T, B, H))

  @jax.jit
  @jax.grad
  def gradient(carry):
    return jnp.sum(weights * unroll(cell, params, xs, carry)[1])

  bar = gradient(carry)
  expected = (carry.memory * bar.memory).sum((2, 3)) + (carry.normalizer * bar.normalizer).sum(2)
  np.testing.assert_allclose(bar.stabilizer, expected, rtol=1e-10)


@pytest.mark.parametrize("activation", ["sigmoid", "exponential"])
def test_initial_forget_gates_increase_from_head_to_head(x64, activation):
  cell = make_cell("mlstm", 3 * H, num_heads=3, forget_activation=activation)
  params = cell.init(jax.random.key(0), D)
  drive = cell.project(cell.prepare(params), jnp.ones(D))
  np.testing.assert_allclose(np.exp(drive.log_forget), sigmoid(np.array([3, 4.5, 6])), rtol=1e-12)
  assert 0 < np.abs(drive.log_input).max() < 0.5
  w_x = make_cell("mlstm", 1000).init(jax.random.key(0), 5)["w_x"]
  np.testing.assert_allclose(np.var(w_x[:, :4000]), 2 / 25, rtol=0.03)


def test_a_number_of_heads_that_does_not_divide_the_units_is_refused():
  with pytest.raises(ValueError, match="num_heads must divide hidden_size 4, got 3"):
    make_cell("mlstm", 4, num_heads=3)
  with pytest.raises(ValueError, match="Unknown forget_activation 'tanh'"):
    make_cell("mlstm", 4, forget_activation="tanh")
