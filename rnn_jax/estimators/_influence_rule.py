"""Update rules that keep the influence matrix itself, in all entries or in those of a pattern."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnn_jax.estimators import _influence_matrix
from rnn_jax.estimators._forward import Derivatives, Rule
from rnn_jax.estimators._influence_matrix import Influence, Structure
from rnn_jax.estimators._sparsity import pattern
from rnn_jax.estimators._vector_cell import VectorCell, vector_cell
from rnn_jax.gradient_flow.joint_carry import from_vector, to_vector
from rnn_jax.time_loop import input_size_of
from rnn_jax.types import Cell, Params


def influence_rule(
  cell: Cell,
  params: Params,
  xs: Array,
  model: VectorCell,
  *,
  num_steps: int | None,
  local: bool,
) -> Rule:
  """Returns the rule that keeps M in the entries that a param reaches within `num_steps` steps.

  Args:
    cell, params, xs, model: the cell, its params, its inputs, and the first two as vectors.
    num_steps: None for all entries that a param ever reaches, so that nothing is left out.
    local: whether J is the Jacobian without the path through `cell.recur`.
  """
  vectors = xs.ndim == 3
  input_size = xs.shape[-1] if vectors else input_size_of(cell.init, params) or 1
  dtype = model.theta.dtype
  own = _structure(cell, input_size, np.dtype(dtype), num_steps, local)

  def init(num_lags: int) -> Influence:
    return _influence_matrix.zeros(own, num_lags, dtype)

  def update(memory: Influence, step: Derivatives) -> Influence:
    return _influence_matrix.advance(own, memory, step.jvp, step.vjp)

  def gradient(memory: Influence, delta: Float[Array, " N"]) -> Float[Array, "K P"]:
    return _influence_matrix.gradient(own, memory, delta, model.theta.size)

  return Rule(init, update, gradient, local)


@functools.lru_cache(maxsize=64)
def _structure(
  cell: Cell, input_size: int, dtype: np.dtype, num_steps: int | None, local: bool
) -> Structure:
  """Returns the structure of a cell's influence matrix, which depends on shapes alone."""

  @jax.jit
  def patterns() -> tuple[Array, Array, Array]:
    model = vector_cell(cell, cell.init(jax.random.key(0), input_size, dtype))
    carry = cell.initial_carry((1,), dtype)
    # A vector even if the cell reads tokens: with a token, the pattern would contain only that
    # token's row of the input kernel.
    x = jnp.full((input_size,), 0.5, dtype)

    def step(s: Float[Array, " N"], theta: Float[Array, " P"]) -> Float[Array, " N"]:
      return model.step(s, theta, carry, x, local=local)

    s, theta = to_vector(carry)[0], model.theta
    s, theta = jnp.full(s.shape, 0.5, dtype), jnp.full(theta.shape, 0.5, dtype)
    numbered = from_vector(jnp.arange(len(s)).astype(dtype)[None], carry)
    partner = to_vector(jax.tree.map(_parts_swapped, numbered))[0].astype(int)
    immediate = pattern(functools.partial(step, s), theta)
    return immediate, pattern(lambda s: step(s, theta), s), partner

  with jax.ensure_compile_time_eval():
    immediate, jacobian, partner = map(np.asarray, patterns())
  return _influence_matrix.structure(immediate, jacobian, partner, num_steps)


def _parts_swapped(a: Array) -> Array:
  return jax.lax.complex(a.imag, a.real) if jnp.iscomplexobj(a) else a
