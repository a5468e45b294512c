"""Functions that the cells share: fused kernels, products, carries of one array, normalization."""

from __future__ import annotations

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact, Key

from rnn_jax import checks
from rnn_jax.initializers import check_cell_init, input_kernel, recurrent_kernel
from rnn_jax.types import (
  Array,
  C,
  CellArray,
  Drive,
  Features,
  FlatParams,
  InitFn,
  InitialCarryFn,
  Inputs,
  Number,
  Params,
  Units,
)

EPSILON = 1e-6  # ε of layer normalization


@runtime_checkable
class HasHidden(Protocol):
  """A carry with the hidden state h [..., H] as its first leaf."""

  @property
  def hidden(self) -> Array:
    """Returns h."""


def zeros(hidden_size: int) -> InitialCarryFn[Array]:
  """Returns the `initial_carry` of a cell whose carry is one array [..., H]."""

  def initial_carry(batch_shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  return initial_carry


def the_carry(params: Params, carry: C, drive: Drive) -> C:
  """Returns the carry: the `output` y = h of a cell whose carry is its output."""
  del params, drive
  return carry


def the_hidden_state(params: Params, carry: HasHidden, drive: Drive) -> Array:
  """Returns the hidden state: the `output` y = h of a cell with several states."""
  del params, drive
  return carry.hidden


def expand_like(p: Inexact[CellArray, " W"], a: Inexact[CellArray, "*_a"]) -> Inexact[Array, "*_p"]:
  """Returns p [W] with as many axes as a, so that both broadcast."""
  return jnp.expand_dims(p, range(a.ndim - p.ndim))


def dense_init(
  hidden_size: int, num_gates: int, kernel: str, gain: Number
) -> InitFn[dict[str, Array]]:
  """Returns an `init` of params {"w_x": [D, G·H], "w_h": [H, G·H], "b": [G·H]}.

  W_x is LeCun normal (variance 1/D), W_h is gain × `kernel` in each gate's block, b is zero.
  """
  checks.integer("hidden_size", hidden_size)
  init_w_h = recurrent_kernel(kernel, gain, num_gates)

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> dict[str, Array]:
    check_cell_init(key, input_size, dtype)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    x_key, h_key = jax.random.split(key)
    width = num_gates * hidden_size
    return {
      "w_x": input_kernel(x_key, (input_size, width), dtype),
      "w_h": init_w_h(h_key, (hidden_size, width), dtype),
      "b": jnp.zeros(width, dtype),
    }

  return init


def dense_project(
  params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None, *, bias: bool = False
) -> Features:
  """Returns the drive x W_x, or x W_x + b with `bias`, over all steps in one product.

  Integer tokens [...] stand for their one-hot vectors: the product is then a row lookup.

  Raises:
    TypeError: xs are neither floats nor integers.
    ValueError: the width of xs is not the D that the params were made for.
  """
  del key
  w_x, xs = params["w_x"], checks.array("xs", xs, "floats", "integers")
  tokens = jnp.issubdtype(xs.dtype, jnp.integer)
  if not tokens and xs.shape[-1:] != w_x.shape[:1]:
    raise ValueError(f"xs must be [..., {w_x.shape[0]}], got {list(xs.shape)}.")
  leading = xs.shape if tokens else xs.shape[:-1]
  if tokens:
    drive = (w_x + params["b"][None] if bias else w_x)[xs.reshape(-1)]
  else:
    # XLA:CPU is several times slower at contractions that keep more than one batch axis.
    rows = xs.reshape(-1, xs.shape[-1])
    if bias:
      # [x, 1] [W_x; b]: adding b afterwards would take another array of the drive's size.
      rows = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)
      w_x = jnp.concatenate([w_x, params["b"][None]])
    drive = rows @ w_x
  return drive.reshape(*leading, -1)


def plain_recur(params: FlatParams, h: Units) -> Features:
  """Returns the recurrent product h W_h."""
  return product(h, params["w_h"])


def dense_recur(params: FlatParams, h: Units) -> Features:
  """Returns the recurrent product h W_h + b.

  b does not depend on the carry, but adding it here, inside the loop, needs no array of the drive's
  size.
  """
  return product(h, params["w_h"]) + expand_like(params["b"], h)


def hidden_recur(params: FlatParams, carry: HasHidden) -> Features:
  """Returns h W_h + b for the hidden state h of a carry."""
  return dense_recur(params, carry.hidden)


@jax.custom_jvp
def product(
  h: Float[CellArray, "*batch M"], w: Float[CellArray, "M N"]
) -> Float[Array, "*batch N"]:
  """Returns h W; its cotangent h̄ = ȳ Wᵀ reads a transposed copy of W.

  The copy is made once, before the reverse loop. A product that transposes its operand would do so
  in every step: on a CPU it takes 1.3 to 1.9 times as long.
  """
  return h @ w


@functools.partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[Array | SymbolicZero, Array | SymbolicZero]
) -> tuple[Array, Array]:
  (h, w), (h_dot, w_dot) = primals, tangents
  y_dot = jnp.zeros((*h.shape[:-1], w.shape[1]), h_dot.dtype)
  if not isinstance(h_dot, SymbolicZero):
    rows = (((h.ndim - 1,), (1,)), ((), ()))
    y_dot += jax.lax.dot_general(h_dot, w.T, rows)
  if not isinstance(w_dot, SymbolicZero):
    y_dot += h @ w_dot
  return h @ w, y_dot


def standardize(x: Features) -> Features:
  """Returns (x − mean x) / √(var x + ε), over the last axis."""
  # The variance that jax.nn.standardize computes, E x² − (E x)², cancels for a small spread about a
  # large mean.
  variance = jnp.var(x, axis=-1, keepdims=True)
  return jax.nn.standardize(x, variance=variance, epsilon=EPSILON)
