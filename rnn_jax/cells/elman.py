"""The simple recurrent network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
from rnn_jax.types import Array, Cell, Params


@jax.custom_jvp
def tanh(a: Array) -> Array:
  """tanh, with a derivative that stores one array: ȧ ↦ (1 − h)(1 + h) ȧ, JAX's own stores two."""
  return jnp.tanh(a)


@tanh.defjvp
def _tanh_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
  h = jnp.tanh(primals[0])
  return h, (1 - h) * (1 + h) * tangents[0]


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
  "tanh": tanh,
  "relu": jax.nn.relu,
  "linear": lambda a: a,
}


def elman(
  hidden_size: int,
  *,
  activation: str = "tanh",
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Simple recurrent network; the carry is the output.

    h' = φ(x W_x + h W_h + b)

  Step Jacobian: ∂h'/∂h = W_h diag(φ'(a)), whose norm is at most max|φ'| · σ₁(W_h) = σ₁(W_h):
  with gain < 1 the gradient must vanish, with gain > 1 it may explode.

  Args:
    hidden_size: width H of carry and output.
    activation: φ, one of `tanh`, `relu`, `linear`.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    ValueError: an unknown activation or kernel, a size below 1, a gain that is not finite.
  References:
    Elman, 1990, https://doi.org/10.1207/s15516709cog1402_1
  """
  phi = ACTIVATIONS[checks.choice("activation", activation, ACTIVATIONS)]

  def update(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    del params, h
    return phi(drive + recurrent)

  init = dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain)
  return Cell(init, zeros(hidden_size), dense_project, dense_recur, update, the_carry)
