"""The antisymmetric network: a stable differential equation, step by step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, plain_recur, the_carry, zeros
from rnn_jax.initializers import input_kernel, recurrent_kernel
from rnn_jax.types import Array, Cell, Params


def antisymmetric(
  hidden_size: int,
  *,
  gated: bool = False,
  epsilon: Any = 0.01,
  gamma: Any = 0.01,
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Antisymmetric network: Euler steps of an equation whose Jacobian is skew-symmetric.

    W_h = U − Uᵀ − γ I
    h' = h + ε n                  n = tanh(x W_n + h W_h + b_n)
    h' = h + ε z ∘ n              z = σ(x W_z + h W_h + b_z)      gated

  Step Jacobian: ∂h'/∂h = I + ε W_h diag(1 − n²). Eigenvalues of W_h are −γ ± iω, so that those of
  the Jacobian are near the unit circle: a gradient turns, and neither vanishes nor explodes soon. A
  step of Euler's leaves a factor of about 1 − εγ + (εω)²/2; γ is to outweigh the last term.

  Args:
    hidden_size: width H of carry and output.
    gated: whether a gate z, with the same W_h, scales what is added.
    epsilon: ε, the step size.
    gamma: γ, the diffusion.
    recurrent_gain: σ, where U_ij ~ N(0, σ²/H) at first.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "u": [H, H], "b": [H]}, or gated {"w_x": [D, 2·H], "u": [H, H],
    "b": [2·H]} in the order n, z. One gate, `input`: z.
  Raises:
    TypeError, ValueError: a size below 1, a number that is not finite, a flag that is not boolean.
  References:
    Chang et al., 2019, https://arxiv.org/abs/1902.09689
  """
  checks.integer("hidden_size", hidden_size)
  checks.boolean("gated", gated)
  checks.number("epsilon", epsilon)
  checks.number("gamma", gamma)
  init_u = recurrent_kernel("gaussian", recurrent_gain)
  width = 2 * hidden_size if gated else hidden_size

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    x_key, u_key = jax.random.split(key)
    return {
      "w_x": input_kernel(x_key, (input_size, width), dtype),
      "u": init_u(u_key, (hidden_size, hidden_size), dtype),
      "b": jnp.zeros(width, dtype),
    }

  def prepare(params: Params) -> Params:
    u = params["u"]
    friction = jnp.asarray(gamma, u.dtype) * jnp.eye(hidden_size, dtype=u.dtype)
    return {"w_x": params["w_x"], "w_h": u - u.T - friction, "b": params["b"]}

  def update(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    del params
    step = jnp.asarray(epsilon, h.dtype)
    if gated:
      n, z = jnp.split(drive, 2, axis=-1)
      return h + step * jax.nn.sigmoid(z + recurrent) * jnp.tanh(n + recurrent)
    return h + step * jnp.tanh(drive + recurrent)

  def gates(params: Params, h: Array, drive: Array, recurrent: Array) -> dict[str, Array]:
    del params, h
    return {"input": jax.nn.sigmoid(jnp.split(drive, 2, axis=-1)[1] + recurrent)}

  project = functools.partial(dense_project, bias=True)
  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=prepare,
    project=project,
    recur=plain_recur,
    update=update,
    output=the_carry,
    gates=gates if gated else None,
    output_is_carry=True,
  )
