"""What the linear recurrences share: h' = a ∘ h + b, with a and b known before the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.types import Array, Carry, Cell, Drive, LinearFn, Params


def linear_cell(linear: LinearFn, **functions: Any) -> Cell:
  """A Cell with `update` made from its `linear`, and no recurrent product."""

  def recur(params: Params, carry: Carry) -> tuple[()]:
    del params, carry
    return ()

  def update(params: Params, h: Array, drive: Drive, recurrent: tuple[()]) -> Array:
    del recurrent
    a, b = linear(params, drive)
    return a * h + b

  return Cell(recur=recur, update=update, linear=linear, **functions)


def on_ring(key: Array, size: int, inner: float, outer: float, dtype: Any) -> Array:
  """ln r of `size` points drawn uniformly, by area, from a ring in the complex plane.

  r² ~ U(inner², outer²). Above 0, so that the logarithm is finite.
  """
  least = max(inner**2, float(jnp.finfo(dtype).tiny))
  return jnp.log(jax.random.uniform(key, (size,), dtype, least, outer**2)) / 2
