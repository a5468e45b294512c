"""The influence matrix ds_t/dθ, propagated forward in time within a sparsity pattern.

    M_t = J_t M_{t−1} + I_t,  then zero outside the pattern

The params are sorted into groups that can reach the same entries of the carry, their *support*. A
group of p params with a support of k entries needs a dense block [k, p] of M and a block [k, k] of
J. In an Elman network with the pattern of one step, there is a group for each unit, with k = 1; if
every param can reach every unit, there is a single group with k = N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn_jax.estimators._estimator import shift_lags
from rnn_jax.estimators._sparsity import closure, coloring, indicators


class Block(NamedTuple):
  """Groups of params with supports of the same size and the same number of params.

  Attributes:
    support: entries of the carry that each group can reach.
    members: each group's params.
    present: whether the param acts on the entry directly, within one step.
  """

  support: Int[np.ndarray, "_G _k"]
  members: Int[np.ndarray, "_G _p"]
  present: Bool[np.ndarray, "_G _k _p"]


class Structure(NamedTuple):
  """The static part of an influence matrix.

  Attributes:
    blocks: the groups of params, by the shapes of their parts of M.
    step: pattern [N, N] of J.
    row_colors: colors of the rows of I, [N]; one vector-Jacobian product per color computes I.
    column_colors: colors of the columns of J, [N]; one Jacobian-vector product per color computes
      J.
  """

  blocks: tuple[Block, ...]
  step: Bool[np.ndarray, "N N"]
  row_colors: Int[np.ndarray, " N"]
  column_colors: Int[np.ndarray, " N"]


# For each block, its entries of M, [K, G, k, p]; K is the number of lags, of which the last entry
# holds all further ones.
Influence = tuple[Float[Array, "K _G _k _p"], ...]


def structure(
  immediate: Bool[np.ndarray, "N P"],
  step: Bool[np.ndarray, "N N"],
  partner: Int[np.ndarray, " N"],
  num_steps: int | None,
) -> Structure:
  """Returns the structure of the influence matrix.

  Args:
    immediate, step: patterns of I_t and J_t.
    partner: see `closure`.
    num_steps: M keeps the entries that a param reaches within this number of steps; None for all
      entries that it ever reaches.
  """
  reached = closure(immediate, step, num_steps, partner)
  return Structure(_blocks(reached, immediate), step, coloring(immediate), coloring(step.T))


def _blocks(
  reached: Bool[np.ndarray, "N P"], immediate: Bool[np.ndarray, "N P"]
) -> tuple[Block, ...]:
  supports, group = np.unique(reached, axis=1, return_inverse=True)
  by_shape: dict[tuple[int, int], list[tuple[Any, Any]]] = {}
  for g, column in enumerate(supports.T):
    support, members = np.flatnonzero(column), np.flatnonzero(group.reshape(-1) == g)
    if support.size:
      by_shape.setdefault((support.size, members.size), []).append((support, members))
  found = []
  for groups in by_shape.values():
    support, members = (np.stack(each) for each in zip(*groups, strict=True))
    found.append(Block(support, members, immediate[support[:, :, None], members[:, None, :]]))
  return tuple(found)


def zeros(own: Structure, num_lags: int, dtype: Any) -> Influence:
  """Returns M_{−1} = 0."""
  return tuple(jnp.zeros((num_lags, *block.present.shape), dtype) for block in own.blocks)


def advance(
  own: Structure,
  influence: Influence,
  jvp: Callable[[Float[Array, " N"]], Float[Array, " N"]],
  vjp: Callable[[Float[Array, " N"]], Float[Array, " P"]],
) -> Influence:
  """Returns M_t, one step after `influence`.

  Args:
    own: the structure of M.
    influence: M_{t−1}.
    jvp: maps v to J_t v.
    vjp: maps u to I_tᵀ u.
  """
  dtype = influence[0].dtype if influence else float
  columns = jax.vmap(jvp)(indicators(own.column_colors, dtype))
  rows = jax.vmap(vjp)(indicators(own.row_colors, dtype))

  def of_block(block: Block, old: Array) -> Array:
    to, at = block.support[:, :, None], block.support[:, None, :]
    jacobian = jnp.where(own.step[to, at], columns[own.column_colors[at], to], 0)
    first = rows[own.row_colors[to], block.members[:, None, :]]
    new = jnp.einsum("gij,lgjp->lgip", jacobian, old)
    return new.at[0].add(jnp.where(block.present, first, 0))

  return tuple(map(of_block, own.blocks, shift_lags(influence)))


def gradient(
  own: Structure, influence: Influence, delta: Float[Array, " N"], size: int
) -> Float[Array, "K P"]:
  """Returns δᵀ M for each lag."""
  num_lags = len(influence[0]) if influence else 1
  total = jnp.zeros((num_lags, size), delta.dtype)
  for block, m in zip(own.blocks, influence, strict=True):
    total = total.at[:, block.members].set(jnp.einsum("gi,lgip->lgp", delta[block.support], m))
  return total
