"""Functions shared by the cells whose units form heads of equal size."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from rnn_jax import checks
from rnn_jax.types import Array, CellArray, Units


def check_heads(hidden_size: int, num_heads: int) -> int:
  """Returns P = H/N, the number of units of a head.

  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or if `num_heads` does not divide it.
  """
  checks.integer("hidden_size", hidden_size)
  checks.integer("num_heads", num_heads)
  if hidden_size % num_heads:
    raise ValueError(f"num_heads must divide hidden_size {hidden_size}, got {num_heads}.")
  return hidden_size // num_heads


def by_head(a: Units, num_heads: int) -> Float[Array, "*batch {num_heads} P"]:
  """Returns a [..., H] as [..., N, P], one row per head."""
  return a.reshape(*a.shape[:-1], num_heads, a.shape[-1] // num_heads)


def joined(a: Float[CellArray, "*batch N P"]) -> Float[Array, "*batch H"]:
  """Returns a [..., N, P] as [..., H], the inverse of `by_head`."""
  return a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1])


def for_units(a: Float[CellArray, "*batch N"], head_size: int) -> Float[Array, "*batch H"]:
  """Returns the value of each unit's head, [..., H]."""
  return jnp.repeat(a, head_size, axis=-1)
