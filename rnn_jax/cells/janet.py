"""The forget gate alone: JANET."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
from rnn_jax.initializers import chrono_bias, further_key
from rnn_jax.types import Array, Cell, Params, unprepared


def janet(
  hidden_size: int,
  *,
  beta: Any = 1.0,
  forget_bias: Any = 1.0,
  chrono: float | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """JANET, an LSTM with nothing but its forget gate; the carry is the output.

    s = x W_s + h U_s + b_s      n = tanh(x W_n + h U_n + b_n)
    h' = σ(s) ∘ h + (1 − σ(s − β)) ∘ n

  β > 0 lets in more than is forgotten: the two weights add up to more than 1.

  Step Jacobian: diag(σ(s)) and the products with U_s and U_n; where s is large it is near I and the
  gradient is carried on unchanged. No output gate is in its way: y = h.

  Args:
    hidden_size: width H of carry and output.
    beta: β.
    forget_bias: initial value of b_s. Chrono goes before it.
    chrono: T_max, the longest dependency expected, in steps: b_s = ln u, u ~ U(1, T_max − 1), so
      that units forget at all rates up to it (the authors' code draws u up to T_max); None for
      b_s = forget_bias.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": [H, 2·H], "b": [2·H]}, in the order s, n; the gates σ(s) and
    1 − σ(s − β) are named forget and input.
  Raises:
    TypeError, ValueError: an unknown kernel, a size below 1, a β, bias or gain that is not finite,
      a chrono not above 2.
  References:
    van der Westhuizen and Lasenby, 2018, https://arxiv.org/abs/1804.04849
    Tallec and Ollivier, 2018 (chrono), https://arxiv.org/abs/1804.11188
  """
  checks.number("beta", beta)
  checks.number("forget_bias", forget_bias)
  dense = dense_init(hidden_size, 2, recurrent_kernel, recurrent_gain)
  times = None if chrono is None else chrono_bias(checks.number("chrono", chrono, above=2))

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    params = dense(key, input_size, dtype)
    b = params["b"]
    b_s = jnp.asarray(forget_bias, b.dtype)
    if times is not None:
      b_s = times(further_key(key), (hidden_size,), b.dtype)
    return {**params, "b": b.at[:hidden_size].set(b_s)}

  def weights(drive: Array, recurrent: Array) -> tuple[Array, Array]:
    """σ(s) and 1 − σ(s − β)."""
    s, _ = jnp.split(drive + recurrent, 2, axis=-1)
    return jax.nn.sigmoid(s), jax.nn.sigmoid(jnp.asarray(beta, s.dtype) - s)

  def update(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
    del params
    f, i = weights(drive, recurrent)
    n = jnp.tanh(jnp.split(drive + recurrent, 2, axis=-1)[1])
    return f * h + i * n

  def gates(params: Params, h: Array, drive: Array, recurrent: Array) -> dict[str, Array]:
    del params, h
    f, i = weights(drive, recurrent)
    return {"forget": f, "input": i}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=dense_recur,
    update=update,
    output=the_carry,
    gates=gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )
