"""Functions with hand-written derivatives, and these derivatives, equal plain references."""

from __future__ import annotations

import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.cells import dense, matrix_memory
from rnn_jax.cells.lem import gated_change

H = 3
# Widths of the arguments of `gates`: (a, c) for the LSTM and the layer-normalized LSTM, (a, c, p_o)
# for the LSTM with peepholes, (h, drive, recurrent) for the GRU, (a, c, n, m) for the sLSTM, (a, z)
# for LEM, (a, s) for the RHN.
WIDTHS = {
  "lstm": (4 * H, H),
  "peephole_lstm": (4 * H, H, H),
  "layer_norm_lstm": (4 * H, H),
  "gru": (H, 3 * H, 3 * H),
  "slstm": (4 * H, H, H, H),
  "lem": (3 * H, H),
  "rhn": (2 * H, H),
}


def plain_gated_change(a, h, t):
  return t * (jnp.tanh(a) - h)


def plain_standardize(x):
  variance = jnp.var(x, axis=-1, keepdims=True)
  return jax.nn.standardize(x, variance=variance, epsilon=dense.EPSILON)


def plain_read(q, s):
  return (q[..., None] * s).sum(-2)


def plain_outer(k, v):
  return k[..., None] * v[..., None, :]


def plain_scaled(a, s):
  return a[..., None, None] * s


def check(fused, plain, shapes):
  """Compares values, forward and reverse derivatives, and the second derivative.

  The second derivative is in forward over reverse mode.
  """
  random = np.random.default_rng(0)
  args, tangents = (
    tuple(jnp.asarray(2 * random.standard_normal(shape)) for shape in shapes) for _ in range(2)
  )

  @functools.partial(jax.jit, static_argnums=0)
  def everything(function):
    values, forward = jax.jvp(function, args, tangents)

    def pull_back(*args):
      return jax.vjp(function, *args)[1](forward)

    return values, forward, jax.jvp(pull_back, args, tangents)

  chex.assert_trees_all_close(everything(fused), everything(plain), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", WIDTHS)
def test_fused_gates_equal_the_specification(x64, name):
  family = importlib.import_module(f"rnn_jax.cells.{name}")
  check(family.fused_gates, family.gates, [(5, width) for width in WIDTHS[name]])


def test_slstm_with_an_empty_memory_equals_the_specification(x64):
  """Where n = 0, f' is exp(−∞), which must not turn a derivative into NaN."""
  family = importlib.import_module("rnn_jax.cells.slstm")

  def at_the_start(gates):
    return lambda a: gates(a, *[jnp.zeros((5, H))] * 3)

  check(at_the_start(family.fused_gates), at_the_start(family.gates), [(5, 4 * H)])


def test_gated_change_equals_the_plain_function(x64):
  check(gated_change, plain_gated_change, [(5, H)] * 3)


def test_standardize_equals_the_plain_function(x64):
  check(dense.standardize, plain_standardize, [(5, 4 * H)])


def test_products_with_matrix_memories_equal_the_plain_functions(x64):
  key, memory = (5, 2, H), (5, 2, H, H)
  check(matrix_memory.read, plain_read, [key, memory])
  check(matrix_memory.outer, plain_outer, [key, key])
  check(matrix_memory.scaled, plain_scaled, [(5, 2), memory])
