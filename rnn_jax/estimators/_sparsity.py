"""Which entries of a step's derivatives can be nonzero, and how few products compute them.

A pattern is a boolean matrix: entry [i, j] says whether output i can depend on input j, whatever
the values are. Rows that share no column can be computed by one product with the transposed matrix
(Curtis, Powell and Reid, 1974, https://doi.org/10.1093/imamat/13.1.117); a coloring finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from rnn_jax import _jaxprs


def pattern(f: Callable[[Array], Array], x: Float[Array, " N"]) -> Bool[Array, "M N"]:
  """Returns the pattern of the Jacobian of a function from [N] to [M]; for use inside `jax.jit`.

  A cotangent that is NaN in one entry passes through the transposed linear program of f. Every
  derivative on its way, even a derivative of 0, turns it into NaN, so the result is NaN in all
  inputs that this entry can depend on. Where f selects by a condition, as relu does, both cases
  count. (In a loop or a branch inside f, only the cases that occur at x count.)
  """
  y, linear = jax.linearize(f, x)
  transposed = jax.make_jaxpr(jax.linear_transpose(linear, x))(y)

  def row(i: Int[Array, ""]) -> Bool[Array, " N"]:
    cotangent = jnp.zeros_like(y).at[i].set(jnp.nan)
    (found,) = _all_cases(transposed.jaxpr, transposed.consts, [cotangent])
    return jnp.isnan(found)

  return jax.lax.map(row, jnp.arange(len(y)))


def _all_cases(jaxpr: core.Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
  """Evaluates a linear program with the sum of all cases in place of each selected case."""
  env = _jaxprs.environment(jaxpr, consts, operands)
  for equation in jaxpr.eqns:
    given = [_jaxprs.read(env, atom) for atom in equation.invars]
    if equation.primitive is jax.lax.select_n_p:
      values = [sum(given[1:])]
    elif equation.primitive in _jaxprs.CALLS:
      values = _all_cases(*_jaxprs.called(equation), given)
    else:
      values = _jaxprs.run_equation(jaxpr, equation, env)
    env.update(zip(equation.outvars, values, strict=True))
  return [_jaxprs.read(env, atom) for atom in jaxpr.outvars]


def coloring(rows: Bool[np.ndarray, "M N"]) -> Int[np.ndarray, " M"]:
  """Returns a color 0, 1, … for each row, such that rows of one color share no column.

  Greedy, in the order of the rows.
  """
  distinct = np.unique(rows, axis=1).astype(np.float32)  # BLAS multiplies floats alone
  share = distinct @ distinct.T > 0
  colors = np.full(len(rows), -1)
  for i in range(len(rows)):
    taken = {*colors[share[i] & (colors >= 0)]}
    colors[i] = next(c for c in range(len(rows)) if c not in taken)
  return colors


def indicators(colors: Int[np.ndarray, " M"], dtype: DTypeLike) -> Float[Array, "C M"]:
  """Returns, for each color, a vector that is 1 at the rows of this color and 0 elsewhere."""
  return jnp.asarray(colors[None] == np.arange(colors.max(initial=0) + 1)[:, None], dtype)


def closure(
  immediate: Bool[np.ndarray, "N P"],
  step: Bool[np.ndarray, "N N"],
  steps: int | None,
  partner: Int[np.ndarray, " N"],
) -> Bool[np.ndarray, "N P"]:
  """Returns which params [N, P] reach which entries of the carry within a number of steps.

  Args:
    immediate: pattern [N, P] of I_t: the params that a step applies to an entry of the carry.
    step: pattern [N, N] of J_t.
    steps: the number of steps n, at least 1; None for any number.
    partner: for the real part of a complex number the index of its imaginary part, and vice versa;
      for other entries their own. What reaches an entry reaches its partner.
  """
  columns, inverse = np.unique(immediate | immediate[partner], axis=1, return_inverse=True)
  reached, through = columns, (step | step[partner]).astype(np.float32)
  for _ in range(len(step) if steps is None else steps - 1):
    new = columns | (through @ reached.astype(np.float32) > 0)
    if (new == reached).all():
      break
    reached = new
  return reached[:, inverse.reshape(-1)]
