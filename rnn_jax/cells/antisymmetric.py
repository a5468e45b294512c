"""The antisymmetric network, whose recurrent kernel is skew-symmetric up to damping."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, plain_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel, recurrent_kernel
from rnn_jax.types import Array, Cell, Features, FlatParams, Number, PlainCell, Units


@memoized
def antisymmetric(
  hidden_size: int,
  *,
  gated: bool = False,
  epsilon: Number = 0.01,
  gamma: Number = 0.01,
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Antisymmetric network: Euler steps of an ODE whose recurrent kernel is skew-symmetric.

    W_h = U − Uᵀ − γ I
    h' = h + ε n                  n = tanh(x W_n + h W_h + b_n)
    h' = h + ε z ∘ n              z = σ(x W_z + h W_h + b_z)      gated=True

  Step Jacobian, without the gate: ∂h'/∂h = I + ε W_h diag(1 − n²). The eigenvalues of W_h are
  −γ ± iω, so those of the Jacobian are near the unit circle: the gradient rotates, and vanishes or
  explodes only slowly. One Euler step multiplies the gradient's norm by about 1 − εγ + (εω)²/2. The
  term (εω)²/2 is the error of Euler's method, for which the damping −εγ is to compensate.

  Args:
    hidden_size: width H of carry and output.
    gated: whether a gate z, which uses the same W_h, scales the increment.
    epsilon: ε, the step size.
    gamma: γ, the damping (in the paper: diffusion).
    recurrent_gain: factor g in the initialization U_ij ~ N(0, g²/H).
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "u": [H, H], "b": [H]}, or if gated {"w_x": [D, 2·H], "u": [H, H],
    "b": [2·H]} in the order n, z. Gates, if gated: {"input": z}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `epsilon`, `gamma` or `recurrent_gain` is
      not a finite number, `epsilon` is not above 0, or `gated` is not a boolean.
  References:
    Chang et al., 2019, https://arxiv.org/abs/1902.09689
  """
  checks.integer("hidden_size", hidden_size)
  checks.boolean("gated", gated)
  checks.number("epsilon", epsilon, above=0)
  checks.number("gamma", gamma)
  init_u = recurrent_kernel("gaussian", recurrent_gain)
  width = 2 * hidden_size if gated else hidden_size

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, u_key = jax.random.split(key)
    return {
      "w_x": input_kernel(x_key, (input_size, width), dtype),
      "u": init_u(u_key, (hidden_size, hidden_size), dtype),
      "b": jnp.zeros(width, dtype),
    }

  def prepare(params: FlatParams) -> FlatParams:
    u = params["u"]
    friction = jnp.asarray(gamma, u.dtype) * jnp.eye(hidden_size, dtype=u.dtype)
    return {"w_x": params["w_x"], "w_h": u - u.T - friction, "b": params["b"]}

  def update(params: FlatParams, h: Units, drive: Features, recurrent: Units) -> Units:
    del params
    step = jnp.asarray(epsilon, h.dtype)
    if gated:
      n, z = jnp.split(drive, 2, axis=-1)
      return h + step * jax.nn.sigmoid(z + recurrent) * jnp.tanh(n + recurrent)
    return h + step * jnp.tanh(drive + recurrent)

  def gates(params: FlatParams, h: Units, drive: Features, recurrent: Units) -> dict[str, Units]:
    del params, h
    return {"input": jax.nn.sigmoid(jnp.split(drive, 2, axis=-1)[1] + recurrent)}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=prepare,
    project=functools.partial(dense_project, bias=True),
    recur=plain_recur,
    update=update,
    output=the_carry,
    gates=gates if gated else None,
    output_is_carry=True,
  )
