"""Powers of two as the bits of a float: what a scale is taken out with, exactly.

`frexp` and `ldexp` do this for any float and any power, in ten times as many instructions; in a
time loop those were a third of what a program was compiled for.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.types import Array


def exponent_of(x: Array) -> Array:
  """⌊log₂ x⌋ of positive normal floats, as int32; zero, inf and NaN have one outside their range.

  Args:
    x: real floats, not below zero.
  """
  bits, mantissa, bias = _layout(x.dtype)
  return (jax.lax.bitcast_convert_type(x, bits) >> mantissa).astype(jnp.int32) - bias


def power_of_two(power: Array, dtype: Any) -> Array:
  """2^power: exact for normal floats, 0 below their range; above it the largest power in it.

  Args:
    power: int32.
    dtype: of the result, a real float's.
  """
  bits, mantissa, bias = _layout(dtype)
  biased = jnp.clip(power, -bias, bias) + bias
  return jax.lax.bitcast_convert_type(biased.astype(bits) << mantissa, dtype)


def _layout(dtype: Any) -> tuple[Any, Any, int]:
  """(integers as wide as these floats, where the exponent begins, what is added to it)."""
  info = jnp.finfo(dtype)
  bits = {16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}[info.bits]
  return bits, bits(info.nmant), int(info.maxexp) - 1
