"""The joint carry s: all leaves of a cell's carry as one real vector per example."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.parallel import vary_alike
from rnn_jax.types import Carry, Cell, Drive, Params, step


def joint_size(cell: Cell) -> int:
  """Returns N, the number of real entries of the cell's joint carry: H for a GRU, 2·H for an LSTM.

  Raises:
    TypeError: if `cell` is not a Cell.
  """
  checks.instance("cell", cell, Cell)
  return jax.eval_shape(lambda: to_vector(cell.initial_carry((1,)))).size


def to_vector(carry: Carry) -> Float[Array, "B N"]:
  """Returns the joint carry s [B, N]: all leaves [B, ...] of `carry`, concatenated in order.

  An LSTM's hidden comes before its cell. A complex leaf contributes its real part, then its
  imaginary part. Integer leaves are left out.
  """
  parts = []
  for leaf in jax.tree.leaves(carry):
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      parts += [leaf.real, leaf.imag]
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
      parts.append(leaf)
  return jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)


def from_vector(s: Float[Array, "B N"], carry: Carry) -> Carry:
  """Returns `carry` with its float and complex leaves taken from s; the inverse of `to_vector`."""
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
) -> Callable[[Float[Array, "B N"]], Float[Array, "B N"]]:
  """Returns the function v ↦ J v for v [B, N], where J = ∂s_t/∂s_{t−1} of each example.

  s is the joint carry. J is evaluated at `before`, the carry before step t. The step's drive (the
  input's part of the pre-activation) is held constant.
  """

  def next_vector(s: Array) -> Array:
    return to_vector(step(cell, params, from_vector(s, before), drive))

  s = to_vector(before)
  _, jacobian_product = jax.linearize(next_vector, s)
  return lambda v: jacobian_product(vary_alike((v, s))[0])


def step_jacobian(cell: Cell, params: Params, before: Carry, drive: Drive) -> Float[Array, "B N N"]:
  """Returns J = ∂s_t/∂s_{t−1} at the carry `before` step t, where s is the joint carry."""
  s = to_vector(before)
  product = linearized_step(cell, params, before, drive)
  columns = jax.vmap(lambda e: product(jnp.broadcast_to(e, s.shape)), out_axes=2)
  return columns(jnp.eye(s.shape[1], dtype=s.dtype))
