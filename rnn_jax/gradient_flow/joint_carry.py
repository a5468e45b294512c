"""The whole carry as one real vector an example: what Jacobians and Lyapunov exponents are of."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rnn_jax.types import Array, Carry, Cell, Drive, Params, step


def to_vector(carry: Carry) -> Array:
  """s [B, N]: the leaves of a carry [B, ...] one after another, an LSTM's hidden before its cell.

  A complex leaf counts as its real part and then its imaginary part; integers are left out.
  """
  parts = []
  for leaf in jax.tree.leaves(carry):
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      parts += [leaf.real, leaf.imag]
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
      parts.append(leaf)
  return jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)


def from_vector(s: Array, carry: Carry) -> Carry:
  """`carry`, with its floats replaced by those of s [B, N]."""
  leaves, structure = jax.tree.flatten(carry)
  new, start = [], 0

  def take(like: Array) -> Array:
    nonlocal start
    width = like[0].size
    start += width
    return s[:, start - width : start].reshape(like.shape)

  for leaf in leaves:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      real = take(leaf)
      leaf = jax.lax.complex(real, take(leaf))
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
      leaf = take(leaf)
    new.append(leaf)
  return jax.tree.unflatten(structure, new)


def linearized_step(
  cell: Cell, params: Params, before: Carry, drive: Drive
) -> Callable[[Array], Array]:
  """v ↦ J v for v [B, N], J = ∂s_t/∂s_{t−1} of each example on its own."""

  def next_vector(s: Array) -> Array:
    return to_vector(step(cell, params, from_vector(s, before), drive))

  _, jacobian_product = jax.linearize(next_vector, to_vector(before))
  return jacobian_product
