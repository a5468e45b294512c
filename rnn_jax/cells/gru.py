"""The gated recurrent unit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project
from rnn_jax.types import Array, Cell, Params


def gru(
  hidden_size: int,
  *,
  reset: str = "after",
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Gated recurrent unit; z keeps the old carry.

    z, r = σ(x W + h U + b)
    n = tanh(x W_n + b_n + r ∘ (h U_n))      reset="after"
    n = tanh(x W_n + b_n + (r ∘ h) U_n)      reset="before"
    h' = z ∘ h + (1 − z) ∘ n

  Step Jacobian: at h = x = b = 0 it is ½ I + ¼ U_n; where z is near 1 it is near I and the
  gradient is carried on unchanged.

  Args:
    hidden_size: width H of carry and output.
    reset: where r acts: `after` the recurrent product (cuDNN, torch, Flax) or `before` it (Cho).
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 3·H], "b": [3·H]}, gates in the order z, r, n.
  Raises:
    ValueError: an unknown reset or kernel, a size below 1, a gain that is not finite.
  References:
    Cho et al., 2014, https://arxiv.org/abs/1406.1078
  """
  checks.choice("reset", reset, ("after", "before"))
  gates = 2 * hidden_size

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> Array:
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def keep(z: Array, h: Array, n: Array) -> Array:
    return z * h + (1 - z) * n

  def recur_after(params: Params, h: Array) -> Array:
    return h @ params["w_h"]

  def update_after(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    del params
    z, r = jnp.split(jax.nn.sigmoid(drive[..., :gates] + recurrent[..., :gates]), 2, axis=-1)
    return keep(z, h, jnp.tanh(drive[..., gates:] + r * recurrent[..., gates:]))

  def recur_before(params: Params, h: Array) -> Array:
    return h @ params["w_h"][:, :gates]

  def update_before(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    z, r = jnp.split(jax.nn.sigmoid(drive[..., :gates] + recurrent), 2, axis=-1)
    return keep(z, h, jnp.tanh(drive[..., gates:] + (r * h) @ params["w_h"][:, gates:]))

  def output(params: Params, h: Array, drive: Array) -> Array:
    del params, drive
    return h

  init = dense_init(hidden_size, 3, recurrent_kernel, recurrent_gain)
  if reset == "before":
    return Cell(init, initial_carry, dense_project, recur_before, update_before, output)
  return Cell(init, initial_carry, dense_project, recur_after, update_after, output)
