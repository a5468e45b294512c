"""The minimal recurrent network, whose gate mixes the carry with an encoding of the input."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax.cells.dense import dense_init, dense_project, plain_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, FlatParams, Gates, Inputs, Number, Units, unprepared

# The pair (z, z V + b_u): the encoded input z, and z's part of the gate's pre-activation.
MinimalDrive: TypeAlias = tuple[Units, Units]


@memoized
def minimalrnn(
  hidden_size: int, *, recurrent_kernel: str = "orthogonal", recurrent_gain: Number = 1.0
) -> Cell[FlatParams, Array, MinimalDrive]:
  """Minimal recurrent network: the carry moves toward an encoding of the input.

    z = tanh(x W_x + b_z)      u = σ(h W_h + z V + b_u)      h' = u ∘ h + (1 − u) ∘ z

  Step Jacobian: ∂h'/∂h = diag(u) + W_h diag((h − z) ∘ u ∘ (1 − u)). The gate's σ is the only
  squashing function on the gradient's path. Where u is near 1 the gradient passes unchanged.

  Args:
    hidden_size: width H of carry and output.
    recurrent_kernel: initialization of W_h and V: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on W_h, but not V, at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "v": [H, H], "w_h": [H, H], "b": [2·H]}, b in the order z, u.
    Gates: {"update": u}, the share of the old carry that is kept.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `recurrent_gain` is not a finite number.
  References:
    Chen, 2017, https://arxiv.org/abs/1711.06788
  """
  dense = dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain)
  code = dense_init(hidden_size, 1, recurrent_kernel, 1.0)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    key, v_key = jax.random.split(key)
    params = dense(key, input_size, dtype)
    b = params["b"]
    return {**params, "v": code(v_key, input_size, dtype)["w_h"], "b": jnp.concatenate([b, b])}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=_project,
    recur=plain_recur,
    update=_update,
    output=the_carry,
    gates=_gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )


def _project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> MinimalDrive:
  b_z, b_u = jnp.split(params["b"], 2)
  z = jnp.tanh(dense_project({"w_x": params["w_x"], "b": b_z}, xs, key, bias=True))
  return z, dense_project({"w_x": params["v"], "b": b_u}, z, bias=True)


def _update(params: FlatParams, h: Units, drive: MinimalDrive, recurrent: Units) -> Units:
  del params
  z, a = drive
  u = jax.nn.sigmoid(a + recurrent)
  return u * h + (1 - u) * z


def _gates(params: FlatParams, h: Units, drive: MinimalDrive, recurrent: Units) -> Gates:
  del params, h
  _, a = drive
  return {"update": jax.nn.sigmoid(a + recurrent)}
