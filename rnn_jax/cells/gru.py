"""The gated recurrent unit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import (
  dense_init,
  dense_project,
  over,
  plain_recur,
  product,
  the_carry,
  zeros,
)
from rnn_jax.initializers import chrono_bias, further_key
from rnn_jax.types import Array, Cell, Params, unprepared


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
  inner_bias: bool = False,
  chrono: float | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Gated recurrent unit; z keeps the old carry.

    z, r = σ(x W + h U + b)
    n = tanh(x W_n + b_n + r ∘ (h U_n))              reset="after"
    n = tanh(x W_n + b_n + r ∘ (h U_n + b_h))        reset="after", inner_bias
    n = tanh(x W_n + b_n + (r ∘ h) U_n)              reset="before"
    n = tanh(x W_n + b_n + h U_n)                    reset="none"
    h' = z ∘ h + (1 − z) ∘ n

  Step Jacobian: at h = x = b = 0 it is ½ I + ¼ U_n (½ I + ½ U_n without r); where z is near 1 it is
  near I and the gradient is carried on unchanged.

  The textbook's simplified unit, c = Γ_u ∘ c̃ + (1 − Γ_u) ∘ c₋, is reset="none" with Γ_u = 1 − z:
  its gate replaces, and its params are those of z here with the other sign.

  Args:
    hidden_size: width H of carry and output.
    reset: where r acts: `after` the recurrent product (cuDNN, torch, Flax), `before` it (Cho), or
      `none`, nowhere: there is no r.
    inner_bias: a bias of its own for h U_n, which r scales too, as cuDNN, torch, Linen and Keras
      have it; for reset="after".
    chrono: T_max, the longest dependency expected, in steps: b_z = ln u, u ~ U(1, T_max − 1), so
      that z forgets at all rates up to it; None for b_z = 0.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 3·H], "b": [3·H]}, gates in the order z, r, n, of which z
    and r are named update and reset; [.., 2·H], z, n, without r; with inner_bias, "b_h": [H] too.
  Raises:
    TypeError, ValueError: an unknown reset or kernel, an inner_bias where r does not act on the
      product, a size below 1, a chrono not above 2, a gain that is not finite.
  References:
    Cho et al., 2014, https://arxiv.org/abs/1406.1078
    Tallec and Ollivier, 2018 (chrono), https://arxiv.org/abs/1804.11188
  """
  checks.choice("reset", reset, ("after", "before", "none"))
  checks.boolean("inner_bias", inner_bias)
  if inner_bias and reset != "after":
    raise ValueError(f"inner_bias is for reset='after', got reset='{reset}'.")
  num_gates = 2 if reset == "none" else 3
  dense = dense_init(hidden_size, num_gates, recurrent_kernel, recurrent_gain)
  keep_bias = None if chrono is None else chrono_bias(checks.number("chrono", chrono, above=2))

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    params = dense(key, input_size, dtype)
    b = params["b"]
    if keep_bias is not None:
      b_z = keep_bias(further_key(key), (hidden_size,), b.dtype)
      params["b"] = b.at[:hidden_size].set(b_z)
    return {**params, "b_h": jnp.zeros_like(b[:hidden_size])} if inner_bias else params

  if reset == "after":
    recur, update = _recur_after, _update_after
  elif reset == "before":
    recur, update = _recur_before, _update_before
  else:
    recur, update = plain_recur, _update_alone
  # r scales the recurrent product without b.
  project = functools.partial(dense_project, bias=True)
  named = _update_gate if reset == "none" else _both_gates
  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=the_carry,
    gates=named,
    recurrent_kernel=None if reset == "before" else "w_h",
    output_is_carry=True,
  )


def _recur_after(params: Params, h: Array) -> Array:
  recurrent = product(h, params["w_h"])
  if "b_h" not in params:
    return recurrent
  b_h = jnp.pad(params["b_h"], (2 * h.shape[-1], 0))
  return recurrent + over(b_h, h)


def _update_after(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
  del params
  return fused_gates(h, drive, recurrent)


def _recur_before(params: Params, h: Array) -> Array:
  return product(h, params["w_h"][:, : 2 * h.shape[-1]])


def _update_before(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
  width = 2 * h.shape[-1]
  z, r = gate_values(drive, recurrent).values()
  n = jnp.tanh(drive[..., width:] + product(r * h, params["w_h"][:, width:]))
  return z * h + (1 - z) * n


def _update_alone(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
  del params
  z, n = jnp.split(drive + recurrent, 2, axis=-1)
  z = jax.nn.sigmoid(z)
  return z * h + (1 - z) * jnp.tanh(n)


def _both_gates(params: Params, h: Array, drive: Array, recurrent: Array) -> dict[str, Array]:
  del params, h
  return gate_values(drive, recurrent)


def _update_gate(params: Params, h: Array, drive: Array, recurrent: Array) -> dict[str, Array]:
  del params, h
  return {"update": jax.nn.sigmoid(jnp.split(drive + recurrent, 2, axis=-1)[0])}
