"""Exponents and powers of two, computed from a float's bits, to rescale without rounding errors.

`frexp` and `ldexp` would handle any float and any power, but they take ten times as many
instructions. In a time loop they made up a third of the compile time.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int32

from rnn_jax.types import Array


def exponent_of(x: Float[Array, "*axes"]) -> Int32[Array, "*axes"]:
  """Returns ⌊log₂ x⌋ for positive normal floats.

  Zero, inf and NaN get an exponent outside the range of normal floats.

  Args:
    x: non-negative real floats.
  """
  layout = _layout(x.dtype)
  bits = jax.lax.bitcast_convert_type(x, layout.bits)
  return (bits >> layout.mantissa).astype(jnp.int32) - layout.bias


def power_of_two(power: Int32[Array, "*axes"], dtype: DTypeLike) -> Float[Array, "*axes"]:
  """Returns 2^power, which is exact in the range of normal floats.

  Below that range the result is 0; above it, the result is the largest power of two in the range.

  Args:
    power: the exponents.
    dtype: dtype of the result, a real floating-point type.
  """
  layout = _layout(dtype)
  biased = jnp.clip(power, -layout.bias, layout.bias) + layout.bias
  bits = biased.astype(layout.bits) << layout.mantissa
  return jax.lax.bitcast_convert_type(bits, dtype)


class _Layout(NamedTuple):
  """The bit layout of a floating-point type.

  Attributes:
    bits: the unsigned integer dtype of the same width.
    mantissa: number of bits of the mantissa, the lowest bits. The exponent is stored above them.
    bias: number that is added to the exponent before it is stored.
  """

  bits: np.dtype
  mantissa: np.unsignedinteger
  bias: int


def _layout(dtype: DTypeLike) -> _Layout:
  info = jnp.finfo(dtype)
  bits = np.dtype(f"uint{info.bits}")
  return _Layout(bits, bits.type(info.nmant), int(info.maxexp) - 1)
