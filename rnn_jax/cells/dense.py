"""What the plain gated cells share: fused input kernel, fused recurrent kernel, bias."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rnn_jax import checks
from rnn_jax.initializers import input_kernel, recurrent_kernel
from rnn_jax.types import Array, InitFn, InitialCarryFn, Params


def zeros(hidden_size: int) -> InitialCarryFn:
  """`initial_carry` of a cell whose carry is one array [..., H]."""

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> Array:
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  return initial_carry


def the_carry(params: Params, h: Array, drive: Any) -> Array:
  """`output` of a cell whose carry is its output: y = h."""
  del params, drive
  return h


def the_hidden_state(params: Params, carry: Any, drive: Any) -> Array:
  """`output` of a cell that gives one state of its carry: y = h."""
  del params, drive
  return carry.hidden


def over(p: Array, a: Array) -> Array:
  """p [H] with as many axes as a [..., H]."""
  return jnp.expand_dims(p, range(a.ndim - p.ndim))


def dense_init(hidden_size: int, num_gates: int, kernel: str, gain: Any) -> InitFn:
  """`init` of a cell with params {"w_x": [D, G·H], "w_h": [H, G·H], "b": [G·H]}.

  W_x is LeCun normal (variance 1/D), W_h one `kernel` × `gain` a gate, b zero.
  """
  checks.integer("hidden_size", hidden_size)
  init_w_h = recurrent_kernel(kernel, gain, num_gates)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
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
  params: Params, xs: Array, key: Array | None = None, *, bias: bool = False
) -> Array:
  """drive = x W_x for xs [..., D], or with `bias` x W_x + b, all of it in one product.

  Integer tokens [...] stand for their one-hot vectors: the product is then a row lookup.

  Raises:
    ValueError: xs has not the width D that the params were made for.
  """
  del key
  w_x = params["w_x"]
  tokens = jnp.issubdtype(xs.dtype, jnp.integer)
  if not tokens and xs.shape[-1] != w_x.shape[0]:
    raise ValueError(f"xs must be [..., {w_x.shape[0]}], got {list(xs.shape)}.")
  leading = xs.shape if tokens else xs.shape[:-1]
  if tokens:
    drive = (w_x + params["b"][None] if bias else w_x)[xs.reshape(-1)]
  else:
    # XLA:CPU is several times slower at contractions that keep more than one batch axis.
    rows = xs.reshape(-1, xs.shape[-1])
    if bias:
      # [x, 1] [W_x; b]: to add b afterwards would take another array of the drive's size.
      rows = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)
      w_x = jnp.concatenate([w_x, params["b"][None]])
    drive = rows @ w_x
  return drive.reshape(*leading, -1)


def plain_recur(params: Params, h: Array) -> Array:
  """recurrent = h W_h for h [..., H]."""
  return product(h, params["w_h"])


def dense_recur(params: Params, h: Array) -> Array:
  """recurrent = h W_h + b for h [..., H].

  b needs no carry, but added here, in the loop, it costs no array of the drive's size.
  """
  return product(h, params["w_h"]) + over(params["b"], h)


def hidden_recur(params: Params, carry: Any) -> Array:
  """`dense_recur` of the hidden state of a carry."""
  return dense_recur(params, carry.hidden)


@jax.custom_jvp
def product(h: Array, w: Array) -> Array:
  """h W for h [..., M] and W [M, N]; its cotangent h̄ = ȳ Wᵀ reads a copy of Wᵀ.

  The copy is made once, in front of the reverse loop. A product that transposes an operand as it
  goes would do so in every step: on a CPU it takes 1.3 to 1.9 times as long.
  """
  return h @ w


@functools.partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
  (h, w), (h_dot, w_dot) = primals, tangents
  y_dot = jnp.zeros((*h.shape[:-1], w.shape[1]), h_dot.dtype)
  if not isinstance(h_dot, SymbolicZero):
    rows = (((h.ndim - 1,), (1,)), ((), ()))
    y_dot += jax.lax.dot_general(h_dot, w.T, rows)
  if not isinstance(w_dot, SymbolicZero):
    y_dot += h @ w_dot
  return h @ w, y_dot
