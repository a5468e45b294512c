"""Tests that modules which are no cells are refused, by a message with the reason."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnn_jax import unroll
from rnn_jax.interop import from_equinox, from_haiku, from_linen, from_nnx

T, B, D, H = 4, 2, 3, 4
KEY = jax.random.key(0)
XS = np.random.default_rng(3).standard_normal((T, B, D))
eqx = pytest.importorskip("equinox", reason="equinox is not installed")
hk = pytest.importorskip("haiku", reason="dm-haiku is not installed")
ZEROS = np.zeros(H)


class LinenCell(nn.RNNCellBase):
  """A cell with one flaw, by name."""

  flaw: str

  @nn.compact
  def __call__(self, carry, x):
    if self.flaw == "norm":
      x = nn.BatchNorm(use_running_average=False)(x)
    if self.flaw == "dropout":
      x = nn.Dropout(0.5, deterministic=False)(x)
    if self.flaw == "mix":
      x = x - jnp.mean(x, axis=0, keepdims=True)
    h = jnp.tanh(nn.Dense(H)(x) + nn.Dense(H)(carry))
    return h if self.flaw == "pair" else (h, h)

  @nn.nowrap
  def initialize_carry(self, rng, input_shape):
    make = jnp.ones if self.flaw == "ones" else jnp.zeros
    return make((*input_shape[:-1], input_shape[-1] if self.flaw == "size" else H))

  @property
  def num_feature_axes(self):
    return 2 if self.flaw == "image" else 1


class NNXCell(nnx.Module):
  def __init__(self, input_size, *, flaw, rngs):
    self.flaw = flaw
    self.x = nnx.Linear(input_size, H, rngs=rngs)
    self.h = nnx.Linear(H, H, rngs=rngs)
    self.norm = nnx.BatchNorm(H, use_running_average=flaw == "none", rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, carry, x):
    drive = self.x(x)
    drive = drive if self.flaw == "dropout" else self.norm(drive)
    h = jnp.tanh(self.h(carry) + (self.dropout(drive) if self.flaw == "dropout" else drive))
    return h, h

  def initialize_carry(self, input_shape, rngs=None):
    return jnp.zeros((*input_shape[:-1], H))


class EquinoxCell(eqx.Module):
  kernel: eqx.nn.Linear
  other: eqx.Module

  def __init__(self, input_size, *, flaw, key):
    self.kernel = eqx.nn.Linear(input_size, H, key=key)
    norm = flaw == "norm"
    self.other = eqx.nn.BatchNorm(H, "batch", mode="ema") if norm else eqx.nn.Dropout(0.5)

  def __call__(self, x, carry, *, key=None):
    return jnp.tanh(carry + self.other(self.kernel(x), key=key))


def haiku_core(flaw):
  class Core(hk.RNNCore):
    def __call__(self, x, carry):
      if flaw == "norm":
        x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
      if flaw == "dropout":
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
      if flaw == "mix":
        x = x - jnp.mean(x, axis=0, keepdims=True)
      h = jnp.tanh(hk.Linear(H)(x) + hk.Linear(H)(carry))
      return h, h

    def initial_state(self, batch_size):
      return jnp.zeros((batch_size, H))

  return Core


class SwappedLinen(nn.Module):
  def __call__(self, x, state):
    return state + x, x


class SwappedNNX(nnx.Module):
  def __call__(self, x, hidden):
    return hidden + x, x


class SwappedEquinox(eqx.Module):
  def __call__(self, carry, input):
    return carry + input


class SwappedCore(hk.Module):
  def __call__(self, prev_state, x):
    return x, prev_state + x


def equinox_cell(flaw):
  return from_equinox(functools.partial(EquinoxCell, flaw=flaw), jnp.zeros(H))


KEPT, RANDOM, ALONE = "must keep its state in the carry", "must not draw random", "independently"


@pytest.mark.parametrize(
  ("make", "kind", "message"),
  [
    (
      lambda: from_linen(LinenCell("norm")),
      ValueError,
      f"LinenCell {KEPT}.*collections batch_stats",
    ),
    (lambda: from_linen(LinenCell("dropout")), ValueError, f"module LinenCell {RANDOM}"),
    (lambda: from_linen(LinenCell("mix")).init(KEY, D), ValueError, f"of a batch {ALONE}"),
    (lambda: from_linen(LinenCell("pair")), TypeError, "must return a carry and an output, got"),
    (lambda: from_linen(LinenCell("ones")), ValueError, "initial_carry must be zeros, got float32"),
    (
      lambda: from_linen(LinenCell("size")),
      ValueError,
      "not depend on the input size, unless input_size is given, g",
    ),
    (
      lambda: from_linen(LinenCell("image")),
      ValueError,
      r"must read vectors \[..., D\], got num_f",
    ),
    (
      lambda: from_linen(SwappedLinen(), ZEROS),
      ValueError,
      r"SwappedLinen must take \(carry, x\), got \(x, state\). Call it in a step for `cell_from_s",
    ),
    (
      lambda: from_nnx(lambda _, rngs: SwappedNNX(), ZEROS),
      ValueError,
      r"must take \(carry, x\), got \(x, hidden\)",
    ),
    (
      lambda: from_equinox(lambda _, key: SwappedEquinox(), ZEROS),
      ValueError,
      r"must take \(x, carry\), got \(carry, input\)",
    ),
    (
      lambda: from_haiku(SwappedCore, ZEROS),
      ValueError,
      r"core SwappedCore must take \(x, carry\), got \(prev_state, x\)",
    ),
    (lambda: from_linen(nn.GRUCell(H), input_size=0), ValueError, "input_size must be at least 1"),
    (lambda: from_linen(nn.Dense(H)), TypeError, "Dense must have a method initialize_carry"),
    (lambda: from_nnx(functools.partial(NNXCell, flaw="norm")), ValueError, f"{KEPT}.* norm.mean"),
    (lambda: from_nnx(functools.partial(NNXCell, flaw="dropout")), ValueError, RANDOM),
    (
      lambda: from_nnx(nnx.GRUCell(D, H, rngs=nnx.Rngs(0))),
      TypeError,
      "from_nnx needs a function that creates the module for an input size.*instance of GRUCell",
    ),
    (lambda: from_nnx(lambda n, rngs: 3), TypeError, "make must return an nnx.Module, got 3."),
    (lambda: equinox_cell("norm"), ValueError, f"EquinoxCell {KEPT}.* an eqx.nn.StateIndex"),
    (lambda: equinox_cell("dropout"), ValueError, RANDOM),
    (
      lambda: from_equinox(eqx.nn.GRUCell(D, H, key=KEY), jnp.zeros(H)),
      TypeError,
      "from_equinox needs a function that creates the module for an input size",
    ),
    (lambda: from_equinox(lambda n, key: 3, jnp.zeros(H)), TypeError, "must return an eqx.Module"),
    (lambda: from_haiku(haiku_core("norm")), ValueError, f"core Core {KEPT}.*batch_norm"),
    (lambda: from_haiku(haiku_core("dropout")), ValueError, f"core Core {RANDOM}"),
    (lambda: from_haiku(haiku_core("mix")).init(KEY, D), ValueError, f"of a batch {ALONE}"),
    (lambda: from_haiku(lambda: 3), TypeError, "make must return an hk.RNNCore, got 3."),
  ],
)
def test_modules_that_are_no_cells_are_refused(make, kind, message):
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
    pytest.raises(kind, match=message),
  ):
    make()


def test_variables_of_nnx_that_a_step_only_reads_are_constants():
  cell = from_nnx(functools.partial(NNXCell, flaw="none"))
  xs = XS.astype(np.float32)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    params = cell.init(KEY, D)
    params["norm"]["mean"] = jnp.ones(H)
    grads = jax.grad(lambda params: jnp.sum(unroll(cell, params, xs)[1]))(params)
  assert not np.any(grads["norm"]["mean"]) and np.any(grads["norm"]["bias"])
