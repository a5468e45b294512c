"""The gated recurrent unit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, product
from rnn_jax.types import Array, Cell, Params


def gate_values(drive: Array, recurrent: Array) -> dict[str, Array]:
  """z and r, each [..., H], from drive [..., 3·H] and recurrent [..., 2·H], or more."""
  width = drive.shape[-1] // 3 * 2
  z, r = jnp.split(jax.nn.sigmoid(drive[..., :width] + recurrent[..., :width]), 2, axis=-1)
  return {"update": z, "reset": r}


def gates(h: Array, drive: Array, recurrent: Array) -> Array:
  """h' of reset="after", from h [..., H], drive and recurrent [..., 3·H]: the specification."""
  z, r = gate_values(drive, recurrent).values()
  n, n_h = jnp.split(drive, 3, axis=-1)[2], jnp.split(recurrent, 3, axis=-1)[2]
  return z * h + (1 - z) * jnp.tanh(n + r * n_h)


@jax.custom_jvp
def fused_gates(h: Array, drive: Array, recurrent: Array) -> Array:
  """`gates`, written for the compiler, with a derivative that stores seven arrays [..., H].

  ḣ' = z ḣ + Σ k ẋ + Σ k_u u̇ over z, r, n, of the drive x and the recurrent product u
  k = [z (1 − z) (h − n),  r (1 − r) u_n m,  m]      k_u = [k_z,  k_r,  r m]
  m = (1 − z) (1 − n²)
  """
  z, _, n = _activations(drive, recurrent)
  return z * h + (1 - z) * n


@fused_gates.defjvp
def _fused_gates_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
  (h, drive, recurrent), (h_dot, drive_dot, recurrent_dot) = primals, tangents
  z, r, n = _activations(drive, recurrent)
  m = (1 - z) * (1 - n**2)
  k_z, k_r = z * (1 - z) * (h - n), r * (1 - r) * jnp.split(recurrent, 3, axis=-1)[2] * m
  k = jnp.concatenate([k_z, k_r, m], axis=-1)
  k_u = jnp.concatenate([k_z, k_r, r * m], axis=-1)
  parts = jnp.split(k * drive_dot + k_u * recurrent_dot, 3, axis=-1)
  return z * h + (1 - z) * n, z * h_dot + parts[0] + parts[1] + parts[2]


def _activations(drive: Array, recurrent: Array) -> tuple[Array, Array, Array]:
  """z, r, n."""
  # XLA:CPU vectorises σ and tanh over the whole block, and not over its parts.
  z, r, _ = jnp.split(jax.nn.sigmoid(drive + recurrent), 3, axis=-1)
  n = jnp.tanh(drive + jnp.concatenate([r, r, r], axis=-1) * recurrent)
  return z, r, jnp.split(n, 3, axis=-1)[2]


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
    params {"w_x": [D, 3·H], "w_h": [H, 3·H], "b": [3·H]}, gates in the order z, r, n, of which z
    and r are named update and reset.
  Raises:
    ValueError: an unknown reset or kernel, a size below 1, a gain that is not finite.
  References:
    Cho et al., 2014, https://arxiv.org/abs/1406.1078
  """
  checks.choice("reset", reset, ("after", "before"))
  width = 2 * hidden_size

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> Array:
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def recur_after(params: Params, h: Array) -> Array:
    return product(h, params["w_h"])

  def update_after(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    del params
    return fused_gates(h, drive, recurrent)

  def recur_before(params: Params, h: Array) -> Array:
    return product(h, params["w_h"][:, :width])

  def update_before(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    z, r = gate_values(drive, recurrent).values()
    n = jnp.tanh(drive[..., width:] + product(r * h, params["w_h"][:, width:]))
    return z * h + (1 - z) * n

  def output(params: Params, h: Array, drive: Array) -> Array:
    del params, drive
    return h

  def named_gates(params: Params, h: Array, drive: Array, recurrent: Array) -> dict[str, Array]:
    del params, h
    return gate_values(drive, recurrent)

  init = dense_init(hidden_size, 3, recurrent_kernel, recurrent_gain)
  project = functools.partial(dense_project, bias=True)  # r scales the recurrent product without b
  if reset == "before":
    return Cell(init, initial_carry, project, recur_before, update_before, output, named_gates)
  return Cell(init, initial_carry, project, recur_after, update_after, output, named_gates)
