"""Layer normalization of a cell's input: its equation in NumPy, and its invariances."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, unroll
from rnn_jax.cells import elman, gru, layer_norm, lstm

T, B, D, H = 5, 3, 6, 4


def draw(seed, shapes):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda a: jnp.asarray(random.standard_normal(a.shape), a.dtype), shapes)


def problem(cell, dtype=float):
  params = draw(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, dtype)))
  return params, draw(2, jax.ShapeDtypeStruct((T, B, D), dtype))


def test_wrapped_cell_reads_the_normalized_input(x64):
  base, cell = lstm(H), layer_norm(lstm(H))
  params, xs = problem(cell)
  x = np.asarray(xs)
  normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  normal = jnp.asarray(np.asarray(params["scale"]) * normal + np.asarray(params["bias"]))
  run = jax.jit(lambda: (unroll(cell, params, xs), unroll(base, params["cell"], normal)))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13), *run())
  carry = cell.initial_carry((B,))
  gates = cell.gates(params, carry, cell.project(params, xs[0]), cell.recur(params, carry))
  assert set(gates) == {"input", "forget", "output"}


def test_output_is_invariant_to_shift_and_scale_of_the_input(x64):
  cell = layer_norm(elman(H))
  params, xs = problem(cell)
  drives = cell.project(params, xs)
  np.testing.assert_allclose(cell.project(params, 3 * xs - 5), drives, rtol=2e-5, atol=2e-5)
  # The invariance is exact only for ε = 0, so use a variance of 1e12, where ε is negligible.
  large = cell.project(params, 1e6 * xs)
  np.testing.assert_allclose(cell.project(params, 3e6 * xs - 5), large, rtol=1e-12, atol=1e-12)
  assert np.max(np.abs(cell.project(params, -xs) - drives)) > 0.1


def test_normalization_is_accurate_for_a_large_mean_in_float32():
  cell = layer_norm(elman(H))
  params, xs = problem(cell, jnp.float32)
  # Multiples of 1/16 around 4096 are exact in float32, so adding 4096 causes no rounding.
  xs = jnp.round(16 * xs) / 16
  drives, shifted = (cell.project(params, x) for x in (xs, xs + 4096))
  np.testing.assert_allclose(shifted, drives, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_gradients_are_those_of_float32(dtype):
  cell = layer_norm(elman(H, activation="linear"))
  params = jax.jit(lambda: cell.init(jax.random.key(0), D, dtype))()
  # The second example has a constant input, where the derivative is largest: 1 / √ε.
  xs = jnp.asarray([[[1, -2, 3, 0.5, 4, 2], [0] * D]], dtype)

  @jax.jit
  def gradient(params, xs):
    return jax.grad(lambda *a: jnp.sum(unroll(cell, *a)[1].astype(float)), (0, 1))(params, xs)

  found = gradient(params, xs)
  expected = gradient(*jax.tree.map(lambda a: a.astype(float), (params, xs)))
  assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    limit = 8 * float(jnp.finfo(dtype).eps) * np.abs(b).max()
    np.testing.assert_allclose(a.astype(float), b, rtol=0, atol=limit)


def test_init_adds_a_scale_of_one_and_a_shift_of_zero():
  params = layer_norm(gru(H)).init(jax.random.key(0), D)
  np.testing.assert_array_equal(params["scale"], np.ones(D))
  np.testing.assert_array_equal(params["bias"], np.zeros(D))
  plain = gru(H).init(jax.random.key(0), D)
  jax.tree.map(np.testing.assert_array_equal, params["cell"], plain)


@pytest.mark.usefixtures("unchecked_types")
def test_inputs_that_cannot_be_normalized_are_refused():
  cell = layer_norm(elman(H))
  with pytest.raises(ValueError, match="input_size must be at least 2, got 1"):
    cell.init(jax.random.key(0), 1)
  params = cell.init(jax.random.key(0), D)
  with pytest.raises(ValueError, match=r"xs must be \[T, B, 6\], got \[5, 3, 2\]"):
    unroll(cell, params, jnp.zeros((T, B, 2)))
  with pytest.raises(ValueError, match=r"must be vectors \[\.\.\., 6\], got int32\[5, 3\]"):
    DeepRNN([cell], vocabulary_size=D).init(jax.random.key(0), jnp.zeros((T, B), jnp.int32))
