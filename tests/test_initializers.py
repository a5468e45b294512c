"""Tests of the initializers of kernels and biases."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.initializers import (
  RECURRENT_KERNELS,
  chrono_bias,
  input_kernel,
  recurrent_kernel,
)

H = 5


@functools.partial(jax.jit, static_argnums=(0, 3))
def drawn(name, gain, key, hidden_size):
  return recurrent_kernel(name, gain, 2)(key, (hidden_size, 2 * hidden_size))


def gates_of(name, gain, hidden_size=H, seed=0):
  """Returns the kernels [H, H] of two gates. Their gain is traced, as in a sweep over gains."""
  fused = np.asarray(drawn(name, gain, jax.random.key(seed), hidden_size))
  assert fused.shape == (hidden_size, 2 * hidden_size)
  return np.split(fused, 2, axis=-1)


@pytest.mark.parametrize("gain", [1.0, 0.5, 1.5])
def test_every_orthogonal_gate_is_orthogonal_times_the_gain(gain):
  for gate in gates_of("orthogonal", gain):
    np.testing.assert_allclose(gate @ gate.T, gain**2 * np.eye(H), atol=2e-6)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_every_gaussian_gate_has_variance_gain_squared_over_width(gain):
  width = 150
  for gate in gates_of("gaussian", gain, width):
    # The sample variance of n² normal numbers has the relative standard error √(2/n²), here 0.9 %.
    assert np.var(gate) == pytest.approx(gain**2 / width, rel=0.04)
    assert abs(np.mean(gate)) < 4 * gain / width**1.5


def test_every_identity_gate_is_the_gain_times_the_identity():
  for gate in gates_of("identity", 0.7):
    np.testing.assert_array_equal(gate, np.float32(0.7) * np.eye(H, dtype=np.float32))


@pytest.mark.parametrize("name", sorted(set(RECURRENT_KERNELS) - {"identity"}))
def test_kernels_differ_between_gates_and_between_keys(name):
  first, second = gates_of(name, 1.0)
  assert not np.allclose(first, second)
  assert not np.allclose(first, gates_of(name, 1.0, seed=1)[0])
  np.testing.assert_array_equal(first, gates_of(name, 1.0)[0])


def test_gain_may_be_a_plain_number():
  kernel = recurrent_kernel("identity", 1.3, 3)(jax.random.key(0), (H, 3 * H))
  np.testing.assert_allclose(kernel, np.tile(1.3 * np.eye(H), 3), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_kernel_has_the_dtype_asked_for(x64, dtype):
  kernel = recurrent_kernel("orthogonal", 2.0, 2)
  assert jax.eval_shape(lambda: kernel(jax.random.key(0), (H, 2 * H), dtype)).dtype == dtype


def test_input_kernel_has_variance_one_over_input_size():
  kernel = jax.jit(lambda key: input_kernel(key, (20, 500)))(jax.random.key(0))
  assert np.var(kernel) == pytest.approx(1 / 20, rel=0.06)


def test_chrono_bias_spreads_forgetting_times():
  bias = np.asarray(chrono_bias(75)(jax.random.key(0), (20_000,)))
  times = np.exp(bias)  # for f = sigmoid(bias), exp(bias) = f / (1 − f)
  assert times.min() >= 1 and times.max() <= 74
  np.testing.assert_allclose(np.quantile(times, [0.25, 0.5, 0.75]), [19.25, 37.5, 55.75], rtol=0.03)
  with pytest.raises(ValueError, match="longest must be greater than 2, got 2"):
    chrono_bias(2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
  "init", [recurrent_kernel(), input_kernel, chrono_bias(10), *RECURRENT_KERNELS.values()]
)
def test_half_precision_is_drawn_in_float32_and_rounded(init, dtype):
  found, full = jax.jit(lambda key: [init(key, (H, H), d) for d in (dtype, float)])(
    jax.random.key(0)
  )
  assert found.dtype == dtype
  np.testing.assert_allclose(found.astype(float), full.astype(dtype).astype(float), rtol=1e-6)


def test_kernels_drawn_by_vmap_are_drawn_one_after_the_other():
  init = recurrent_kernel("orthogonal", 2.0, num_gates=2)

  def draw(key):
    return init(key, (H, 2 * H))

  keys = jax.random.split(jax.random.key(0), 3)
  np.testing.assert_array_equal(jax.vmap(draw)(keys), jnp.stack([draw(key) for key in keys]))
  # One decomposition of a [3, H, H] array could wait for threads forever.
  text = jax.jit(jax.vmap(draw)).lower(keys).as_text()
  assert f"tensor<{H}x{H}xf32>) ->" in text and "lapack_sgeqrf" in text
  assert not [line for line in text.splitlines() if "lapack" in line and f"tensor<3x{H}" in line]
