"""The minimal recurrent network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.dense import dense_init, dense_project, plain_recur, the_carry, zeros
from rnn_jax.types import Array, Cell, Params, unprepared


def minimalrnn(
  hidden_size: int, *, recurrent_kernel: str = "orthogonal", recurrent_gain: Any = 1.0
) -> Cell:
  """Minimal recurrent network: the carry moves towards a code of the input, and nothing else.

    z = tanh(x W_x + b_z)      u = σ(h W_h + z V + b_u)      h' = u ∘ h + (1 − u) ∘ z

  Step Jacobian: ∂h'/∂h = diag(u) + W_h diag((h − z) ∘ u ∘ (1 − u)): no squashing function but that
  of the gate lies on the gradient's way. Where u is near 1 it is handed on unchanged.

  Args:
    hidden_size: width H of carry and output.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, for W_h and V.
    recurrent_gain: factor on W_h at initialisation.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "v": [H, H], "w_h": [H, H], "b": [2·H]}, b in the order z, u.
    One gate, `update`: u, which keeps the old carry.
  Raises:
    ValueError: an unknown kernel, a size below 1, a gain that is not finite.
  References:
    Chen, 2017, https://arxiv.org/abs/1711.06788
  """
  dense = dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain)
  code = dense_init(hidden_size, 1, recurrent_kernel, 1.0)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    key, v_key = jax.random.split(key)
    params = dense(key, input_size, dtype)
    b = params["b"]
    return {**params, "v": code(v_key, input_size, dtype)["w_h"], "b": jnp.concatenate([b, b])}

  def project(params: Params, xs: Array, key: Array | None = None) -> tuple[Array, Array]:
    b_z, b_u = jnp.split(params["b"], 2)
    z = jnp.tanh(dense_project({"w_x": params["w_x"], "b": b_z}, xs, key, bias=True))
    return z, dense_project({"w_x": params["v"], "b": b_u}, z, bias=True)

  def update(params: Params, h: Array, drive: tuple[Array, Array], recurrent: Array) -> Array:
    del params
    z, a = drive
    u = jax.nn.sigmoid(a + recurrent)
    return u * h + (1 - u) * z

  def gates(
    params: Params, h: Array, drive: tuple[Array, Array], recurrent: Array
  ) -> dict[str, Array]:
    del params, h
    return {"update": jax.nn.sigmoid(drive[1] + recurrent)}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=project,
    recur=plain_recur,
    update=update,
    output=the_carry,
    gates=gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )
