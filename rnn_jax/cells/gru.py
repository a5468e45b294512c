"""The gated recurrent unit."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import (
  dense_init,
  dense_project,
  expand_like,
  plain_recur,
  product,
  the_carry,
  zeros,
)
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import chrono_bias, drawn_in_float32, further_key
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Number,
  PlainCell,
  Units,
  unprepared,
)


class GRUGates(NamedTuple):
  """The update gate z and the reset gate r, each [..., H]."""

  update: Array
  reset: Array


def gate_values(
  drive: Float[CellArray, "*batch W"], recurrent: Float[CellArray, "*batch V"]
) -> GRUGates:
  """Returns the gates z and r.

  Args:
    drive: the input's part of the pre-activations, in blocks z, r, n.
    recurrent: the recurrent product, which starts with the blocks z, r; further blocks are ignored.
  """
  width = drive.shape[-1] // 3 * 2
  z, r = jnp.split(jax.nn.sigmoid(drive[..., :width] + recurrent[..., :width]), 2, axis=-1)
  return GRUGates(z, r)


def gates(
  h: Units, drive: Float[CellArray, "*batch 3*H"], recurrent: Float[CellArray, "*batch 3*H"]
) -> Units:
  """Returns h' for reset="after", computed exactly as the equations of `gru` are written.

  The tests compare `fused_gates` with this function.
  """
  z, r = gate_values(drive, recurrent)
  n, n_h = jnp.split(drive, 3, axis=-1)[2], jnp.split(recurrent, 3, axis=-1)[2]
  return z * h + (1 - z) * jnp.tanh(n + r * n_h)


@jax.custom_jvp
def fused_gates(
  h: Units, drive: Float[CellArray, "*batch 3*H"], recurrent: Float[CellArray, "*batch 3*H"]
) -> Units:
  """Returns h' for reset="after". Its backward pass stores seven arrays [..., H].

  Let x be the drive, u the recurrent product, u_n its block n, n the candidate, and Σ the sum over
  the blocks z, r, n. The tangent is

    ḣ' = z ḣ + Σ k ẋ + Σ k_u u̇
    k = [z (1 − z) (h − n),  r (1 − r) u_n m,  m]      k_u = [k_z,  k_r,  r m]
    m = (1 − z) (1 − n²)
  """
  return gates(h, drive, recurrent)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray, CellArray], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
  (h, drive, recurrent), (h_dot, drive_dot, recurrent_dot) = primals, tangents
  z, r, n = _activations(drive, recurrent)
  m = (1 - z) * (1 - n**2)
  k_z, k_r = z * (1 - z) * (h - n), r * (1 - r) * jnp.split(recurrent, 3, axis=-1)[2] * m
  k = jnp.concatenate([k_z, k_r, m], axis=-1)
  k_u = jnp.concatenate([k_z, k_r, r * m], axis=-1)
  parts = jnp.split(k * drive_dot + k_u * recurrent_dot, 3, axis=-1)
  return z * h + (1 - z) * n, z * h_dot + parts[0] + parts[1] + parts[2]


def _activations(drive: Features, recurrent: Features) -> tuple[Units, Units, Units]:
  """Returns z, r and n for reset="after"."""
  z, r = gate_values(drive, recurrent)
  n, n_h = jnp.split(drive, 3, axis=-1)[2], jnp.split(recurrent, 3, axis=-1)[2]
  return z, r, jnp.tanh(n + r * n_h)


@memoized
def gru(
  hidden_size: int,
  *,
  reset: str = "after",
  inner_bias: bool = False,
  chrono: Number | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Gated recurrent unit; its update gate z is the share of the old carry that is kept.

    z, r = σ(x W + h U + b)
    n = tanh(x W_n + b_n + r ∘ (h U_n))              reset="after"
    n = tanh(x W_n + b_n + r ∘ (h U_n + b_h))        reset="after", inner_bias=True
    n = tanh(x W_n + b_n + (r ∘ h) U_n)              reset="before"
    n = tanh(x W_n + b_n + h U_n)                    reset="none"
    h' = z ∘ h + (1 − z) ∘ n

  Step Jacobian: at h = x = b = 0 it is ½ I + ¼ U_n, or ½ I + ½ U_n with reset="none". Where z is
  near 1 it is near I, and the gradient passes unchanged.

  The simplified GRU of textbooks, c = Γ_u ∘ c̃ + (1 − Γ_u) ∘ c₋ with the old carry c₋, is
  reset="none" with Γ_u = 1 − z. Γ_u is the share of c₋ that is *replaced*, so its params are those
  of z with the opposite sign.

  Args:
    hidden_size: width H of carry and output.
    reset: where r acts: `after` the recurrent product (cuDNN, torch, Flax), `before` it (Cho et
      al.), or `none` for a cell without r.
    inner_bias: adds a bias b_h to h U_n, inside the product with r, as cuDNN, torch, Linen and
      Keras do. Requires reset="after".
    chrono: T_max, the longest expected dependency in steps. Initializes b_z = ln u with
      u ~ U(1, T_max − 1), so that the units' time scales spread up to T_max. None for b_z = 0.
    recurrent_kernel: initialization of each gate's block of U: `orthogonal`, `gaussian` or
      `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 3·H], "b": [3·H]} in the order z, r, n; with reset="none"
    2·H in place of 3·H, in the order z, n; with inner_bias also "b_h": [H].
    Gates: {"update": z, "reset": r}, or {"update": z} with reset="none".
  Raises:
    TypeError, ValueError: if `reset` or `recurrent_kernel` is unknown, `inner_bias` is set without
      reset="after", `hidden_size` is below 1, `chrono` is not above 2, or `recurrent_gain` is not a
      finite number.
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

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
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
    recur, update = plain_recur, _update_without_reset
  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    # Add b to the drive, because r scales the recurrent product, but must not scale b.
    project=functools.partial(dense_project, bias=True),
    recur=recur,
    update=update,
    output=the_carry,
    gates=_update_gate if reset == "none" else _both_gates,
    recurrent_kernel=None if reset == "before" else "w_h",
    output_is_carry=True,
  )


def _recur_after(params: FlatParams, h: Units) -> Float[Array, "*batch 3*H"]:
  recurrent = product(h, params["w_h"])
  if "b_h" not in params:
    return recurrent
  b_h = jnp.pad(params["b_h"], (2 * h.shape[-1], 0))
  return recurrent + expand_like(b_h, h)


def _update_after(
  params: FlatParams,
  h: Units,
  drive: Float[CellArray, "*batch 3*H"],
  recurrent: Float[CellArray, "*batch 3*H"],
) -> Units:
  del params
  return fused_gates(h, drive, recurrent)


def _recur_before(params: FlatParams, h: Units) -> Float[Array, "*batch 2*H"]:
  return product(h, params["w_h"][:, : 2 * h.shape[-1]])


def _update_before(
  params: FlatParams,
  h: Units,
  drive: Float[CellArray, "*batch 3*H"],
  recurrent: Float[CellArray, "*batch 2*H"],
) -> Units:
  width = 2 * h.shape[-1]
  z, r = gate_values(drive, recurrent)
  n = jnp.tanh(drive[..., width:] + product(r * h, params["w_h"][:, width:]))
  return z * h + (1 - z) * n


def _update_without_reset(
  params: FlatParams,
  h: Units,
  drive: Float[CellArray, "*batch 2*H"],
  recurrent: Float[CellArray, "*batch 2*H"],
) -> Units:
  del params
  z, n = jnp.split(drive + recurrent, 2, axis=-1)
  z = jax.nn.sigmoid(z)
  return z * h + (1 - z) * jnp.tanh(n)


def _both_gates(params: FlatParams, h: Units, drive: Array, recurrent: Array) -> Gates:
  del params, h
  return gate_values(drive, recurrent)._asdict()


def _update_gate(params: FlatParams, h: Units, drive: Features, recurrent: Features) -> Gates:
  del params, h
  return {"update": jax.nn.sigmoid(jnp.split(drive + recurrent, 2, axis=-1)[0])}
