"""The independently recurrent network (IndRNN), whose recurrent kernel is diagonal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel
from rnn_jax.types import Array, Cell, FlatParams, Number, PlainCell, Units


@memoized
def indrnn(
  hidden_size: int, *, low: Number = 0.0, high: Number = 1.0, longest: int | float | None = None
) -> PlainCell:
  """Independently recurrent network: a unit reads the input and its own carry, no other unit's.

    h' = relu(x W_x + u ∘ h + b)      u ~ U(low, high) at initialization

  With `longest` = T, the step uses u clipped to |u| ≤ 2^(1/T), so that a unit that is always active
  scales a gradient by at most 2 over T steps. The param itself is not clipped, and its gradient is
  computed as if the clip were the identity, because the true gradient is zero outside the range,
  and a u that left the range could never return. (The authors instead clip the params after each
  update.)

  Step Jacobian: ∂h'/∂h = diag(u ∘ (a > 0)), where a is the pre-activation. While a unit is active,
  k steps scale its gradient by exactly u^k, whatever the other units do.

  Args:
    hidden_size: width H of carry and output.
    low, high: range of u at initialization. For the last layer of a network whose output is read
      after T steps, the paper uses values near 1, from 2^(−1/T) to 2^(1/T).
    longest: T, in steps. None to use u unclipped.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "u": [H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `hidden_size` or `longest` is below 1, `low` or `high` is not a finite
      number, or `high` is below `low`.
  References:
    Li et al., 2018, https://arxiv.org/abs/1803.04831
  """
  checks.integer("hidden_size", hidden_size)
  ends = checks.number("low", low), checks.number("high", high)
  if not any(isinstance(end, jax.core.Tracer) for end in ends) and high < low:
    raise ValueError(f"high must be at least low = {low}, got {high}.")
  if longest is not None:
    checks.number("longest", longest, minimum=1)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, u_key = jax.random.split(key)
    bounds = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    return {
      "w_x": input_kernel(x_key, (input_size, hidden_size), dtype),
      "u": jax.random.uniform(u_key, (hidden_size,), dtype, *bounds),
      "b": jnp.zeros(hidden_size, dtype),
    }

  def prepare(params: FlatParams) -> FlatParams:
    if longest is None:
      return params
    u, bound = params["u"], 2.0 ** (1 / longest)
    return {**params, "u": u + jax.lax.stop_gradient(jnp.clip(u, -bound, bound) - u)}

  def recur(params: FlatParams, h: Units) -> Units:
    return expand_like(params["u"], h) * h + expand_like(params["b"], h)

  def update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
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
