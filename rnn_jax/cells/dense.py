"""Functions shared by the cells: initialization, products, outputs and normalization.

A fused kernel [·, G·H] holds the square or rectangular kernels of G gates side by side, so that one
product computes the pre-activations of all gates. The *drive* of a cell is the input's part of the
pre-activation, computed for all steps before the time loop.
"""

from __future__ import annotations

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Inexact, Integer, Key

from rnn_jax import checks
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel, recurrent_kernel
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
  Shape,
  Units,
)

EPSILON = 1e-6  # ε of layer normalization


@runtime_checkable
class HasHidden(Protocol):
  """A carry with the hidden state h [..., H] as its first leaf."""

  @property
  def hidden(self) -> Array:
    """Returns the hidden state h."""


def zeros(hidden_size: int) -> InitialCarryFn[Array]:
  """Returns the `initial_carry` of a cell whose carry is one array [..., H]."""

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> Array:
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  return initial_carry


def complex_zeros(*sizes: int) -> InitialCarryFn[Array]:
  """Returns the `initial_carry` of a cell whose carry is one complex array [..., *sizes].

  The parts have the requested precision, but at least float32, because JAX has no complex numbers
  in half precision.
  """

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> Array:
    # NumPy's promotion gives complex64 for float32 and complex128 for float64.
    kind = np.result_type(jax.dtypes.canonicalize_dtype(dtype), np.complex64)
    return jnp.zeros((*batch_shape, *sizes), kind)

  return initial_carry


def complex_of(
  re: Float[CellArray, "*axes"], im: Float[CellArray, "*axes"]
) -> Complex[Array, "*axes"]:
  """Returns re + i im, which is complex64 for half-precision parts, as is the carry."""
  dtype = np.promote_types(re.dtype, jnp.float32)
  return jax.lax.complex(re.astype(dtype), im.astype(dtype))


def the_carry(params: Params, carry: C, drive: Drive) -> C:
  """Returns the carry unchanged; the `output` of a cell with y = h."""
  del params, drive
  return carry


def the_hidden_state(params: Params, carry: HasHidden, drive: Drive) -> Array:
  """Returns the hidden state; the `output` of a cell with y = h and further leaves in its carry."""
  del params, drive
  return carry.hidden


def expand_like(p: Inexact[CellArray, " W"], a: Inexact[CellArray, "*_a"]) -> Inexact[Array, "*_p"]:
  """Returns p [W] with leading axes of size 1 added, so that it broadcasts with a [..., W]."""
  return jnp.expand_dims(p, range(a.ndim - p.ndim))


def dense_init(
  hidden_size: int, num_gates: int, kernel: str, gain: Number
) -> InitFn[dict[str, Array]]:
  """Returns the `init` of a cell with params {"w_x": [D, G·H], "w_h": [H, G·H], "b": [G·H]}.

  G is `num_gates`. W_x is LeCun normal (variance 1/D). Each gate's block [H, H] of W_h is `gain`
  times a kernel drawn by the initializer named `kernel`. b is zero.
  """
  checks.integer("hidden_size", hidden_size)
  init_w_h = recurrent_kernel(kernel, gain, num_gates)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> dict[str, Array]:
    check_cell_init(key, input_size, dtype)
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
  """Returns the drive of all steps, x W_x (or x W_x + b if `bias` is True), as one product.

  Integer tokens [...] stand for their one-hot vectors, so x W_x is a lookup of rows of W_x. A
  traced token outside the vocabulary stands for a vector of zeros.

  Raises:
    TypeError: if xs is not an array of floats or integers.
    ValueError: if the last axis of xs is not the input size D of the params, or if a token is not
      from 0 to D − 1.
  """
  del key
  w_x, given, xs = params["w_x"], xs, checks.array("xs", xs, "floats", "integers")
  tokens = jnp.issubdtype(xs.dtype, jnp.integer)
  if tokens:
    # JAX may trace xs, although their values are known, when it converts them to an array.
    checks.tokens("xs", given, len(w_x))
  if not tokens and xs.shape[-1:] != w_x.shape[:1]:
    raise ValueError(f"xs must be [..., {w_x.shape[0]}], got {list(xs.shape)}.")
  leading = xs.shape if tokens else xs.shape[:-1]
  if tokens and bias:
    # The last row is the drive of a zero vector. A mask of the result would take another pass over
    # the drive in the backward pass.
    b, index = params["b"][None], xs.astype(int)
    index = jnp.where((index >= 0) & (index < len(w_x)), index, len(w_x))
    drive = jnp.concatenate([w_x + b, b])[index.reshape(-1)]
  elif tokens:
    drive = token_rows(w_x, xs.reshape(-1))
  else:
    # Flatten the batch axes, because XLA:CPU's product is several times slower with more than one.
    rows = xs.reshape(-1, xs.shape[-1])
    if bias:
      # Compute x W_x + b as [x, 1] [W_x; b], because adding b afterwards would allocate another
      # array of the drive's size.
      rows = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)
      w_x = jnp.concatenate([w_x, params["b"][None]])
    drive = rows @ w_x
  return drive.reshape(*leading, -1)


def split_project(
  params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None, *, width: int
) -> tuple[Float[Array, "*batch {width}"], Float[Array, "*batch W"]]:
  """Returns two drives of all steps: the first `width` columns of x W_x + b, and the other columns.

  In the backward pass, the time loop overwrites a drive with derivatives of the same shape. With
  two drives, it can do so where the derivatives have the shape of only a part of x W_x + b.
  """
  w_x, b = params["w_x"], params["b"]
  first = {"w_x": w_x[:, :width], "b": b[:width]}
  second = {"w_x": w_x[:, width:], "b": b[width:]}
  return dense_project(first, xs, key, bias=True), dense_project(second, xs, key, bias=True)


def token_rows(
  table: Float[CellArray, "V W"], xs: Integer[CellArray, "*batch"]
) -> Float[Array, "*batch W"]:
  """Returns the rows of a table at tokens xs, and zeros at traced tokens outside the vocabulary.

  This is the product of the tokens' one-hot vectors and the table.

  Raises:
    ValueError: if a token is not from 0 to V − 1.
  """
  checks.tokens("xs", xs, len(table))
  rows = jnp.asarray(table).at[jnp.asarray(xs)]
  return rows.get(mode="fill", fill_value=0, wrap_negative_indices=False)


def plain_recur(params: FlatParams, h: Units) -> Features:
  """Returns the recurrent product h W_h."""
  return product(h, params["w_h"])


def dense_recur(params: FlatParams, h: Units) -> Features:
  """Returns the recurrent product h W_h + b.

  b is added here, in every step, because adding it to the drive before the loop would allocate
  another array of the drive's size.
  """
  return product(h, params["w_h"]) + expand_like(params["b"], h)


def hidden_recur(params: FlatParams, carry: HasHidden) -> Features:
  """Returns the recurrent product h W_h + b, where h is the hidden state in `carry`."""
  return dense_recur(params, carry.hidden)


@jax.custom_jvp
def product(
  h: Inexact[CellArray, "*batch M"], w: Inexact[CellArray, "M N"]
) -> Inexact[Array, "*batch N"]:
  """Returns y = h W. The backward pass computes the cotangent h̄ = ȳ Wᵀ from a copy of Wᵀ.

  The copy is made once, before the reverse loop. JAX's own rule would transpose W inside the
  product, at every step, which takes 1.3 to 1.9 times as long on a CPU.
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
  """Returns (x − mean x) / √(var x + ε), over the last axis.

  Half precision is computed in float32, because the derivative at x = 0, of size ε^-1.5, would
  overflow float16.
  """
  return _standardize(x.astype(np.promote_types(x.dtype, np.float32))).astype(x.dtype)


@jax.custom_jvp
def _standardize(x: Features) -> Features:
  """Returns n = r (x − mean x), where r = 1 / √(var x + ε).

  The backward pass stores n and r. The tangent is ṅ = r (ẋ − mean ẋ − n mean(n ẋ)).
  """
  return _normal_and_rate(x)[0]


@_standardize.defjvp
def _standardize_jvp(primals: tuple[CellArray], tangents: tuple[Array]) -> tuple[Array, Array]:
  (x,), (x_dot,) = primals, tangents
  n, r = _normal_and_rate(x)
  mean = jnp.mean(x_dot, axis=-1, keepdims=True)
  return n, r * (x_dot - mean - n * jnp.mean(n * x_dot, axis=-1, keepdims=True))


def _normal_and_rate(x: Features) -> tuple[Features, Float[Array, "*batch 1"]]:
  """Returns n and r of `_standardize`."""
  centered = x - jnp.mean(x, axis=-1, keepdims=True)
  # Do not compute the variance as E x² − (E x)²: this cancels catastrophically if the mean is large
  # and the spread is small.
  r = jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + EPSILON)
  return r * centered, r
