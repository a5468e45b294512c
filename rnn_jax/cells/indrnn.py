"""The independently recurrent network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, over, the_carry, zeros
from rnn_jax.initializers import input_kernel
from rnn_jax.types import Array, Cell, Params


def indrnn(
  hidden_size: int, *, low: Any = 0.0, high: Any = 1.0, longest: float | None = None
) -> Cell:
  """Independently recurrent network: each unit reads itself alone.

    h' = relu(x W_x + u ∘ h + b)      u ~ U(low, high) at first

  With `longest` = T, |u| is kept at 2^(1/T) or below: a unit that is always on then scales a
  gradient by 2 at most over T steps. What is computed reads the nearest value in that range; the
  gradient is that towards the value read, handed on to the param as it is. So do the authors, who
  move params back into the range after each update. A clip's own gradient, zero outside, would
  leave a unit there for good.

  Step Jacobian: ∂h'/∂h = diag(u ∘ (a > 0)). Over k steps that a unit is on its gradient is scaled
  by u^k exactly, whatever the others do.

  Args:
    hidden_size: width H of carry and output.
    low, high: range of u at first. The paper gives the last layer of a network that answers after
      T steps values near 1, from 2^(−1/T) to 2^(1/T).
    longest: T, in steps; None for no bound.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "u": [H], "b": [H]}.
  Raises:
    TypeError, ValueError: a size below 1, a number that is not finite, high below low, `longest`
      below 1.
  References:
    Li et al., 2018, https://arxiv.org/abs/1803.04831
  """
  checks.integer("hidden_size", hidden_size)
  ends = checks.number("low", low), checks.number("high", high)
  if not any(isinstance(end, jax.core.Tracer) for end in ends) and high < low:
    raise ValueError(f"high must be at least low = {low}, got {high}.")
  if longest is not None:
    checks.number("longest", longest, minimum=1)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    x_key, u_key = jax.random.split(key)
    bounds = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    return {
      "w_x": input_kernel(x_key, (input_size, hidden_size), dtype),
      "u": jax.random.uniform(u_key, (hidden_size,), dtype, *bounds),
      "b": jnp.zeros(hidden_size, dtype),
    }

  def prepare(params: Params) -> Params:
    if longest is None:
      return params
    u, bound = params["u"], 2.0 ** (1 / longest)
    return {**params, "u": u + jax.lax.stop_gradient(jnp.clip(u, -bound, bound) - u)}

  def recur(params: Params, h: Array) -> Array:
    return over(params["u"], h) * h + over(params["b"], h)

  def update(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    del params, h
    return jax.nn.relu(drive + recurrent)

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=prepare,
    project=dense_project,
    recur=recur,
    update=update,
    output=the_carry,
    output_is_carry=True,
  )
