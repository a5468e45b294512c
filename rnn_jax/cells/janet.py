"""JANET, an LSTM with only a forget gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
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


@memoized
def janet(
  hidden_size: int,
  *,
  beta: Number = 1.0,
  forget_bias: Number = 1.0,
  chrono: Number | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """JANET, an LSTM with only a forget gate; the carry is the output.

    s = x W_s + h U_s + b_s      n = tanh(x W_n + h U_n + b_n)
    h' = σ(s) ∘ h + (1 − σ(s − β)) ∘ n

  With β > 0 the weights of h and n add up to more than 1, so more is written than forgotten.

  Step Jacobian: diag(σ(s)) plus terms with the factor U_s or U_n. Where s is large it is near I,
  and the gradient passes unchanged. No output gate attenuates the gradient of y, since y = h.

  Args:
    hidden_size: width H of carry and output.
    beta: β, a shift in the input gate 1 − σ(s − β). With β = 0 the two gates add up to 1.
    forget_bias: initial value of b_s; ignored with `chrono`.
    chrono: T_max, the longest expected dependency in steps. Initializes b_s = ln u with
      u ~ U(1, T_max − 1), so that the units' time scales spread up to T_max. (The authors' code
      draws u up to T_max.) None for b_s = `forget_bias`.
    recurrent_kernel: initialization of U_s and U_n: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": [H, 2·H], "b": [2·H]} in the order s, n.
    Gates: {"forget": σ(s), "input": 1 − σ(s − β)}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, `beta`,
      `forget_bias` or `recurrent_gain` is not a finite number, or `chrono` is not above 2.
  References:
    van der Westhuizen and Lasenby, 2018, https://arxiv.org/abs/1804.04849
    Tallec and Ollivier, 2018 (chrono), https://arxiv.org/abs/1804.11188
  """
  checks.number("beta", beta)
  checks.number("forget_bias", forget_bias)
  dense = dense_init(hidden_size, 2, recurrent_kernel, recurrent_gain)
  times = None if chrono is None else chrono_bias(checks.number("chrono", chrono, above=2))

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = dense(key, input_size, dtype)
    b = params["b"]
    b_s = jnp.asarray(forget_bias, b.dtype)
    if times is not None:
      b_s = times(further_key(key), (hidden_size,), b.dtype)
    return {**params, "b": b.at[:hidden_size].set(b_s)}

  def weights(drive: Features, recurrent: Features) -> tuple[Units, Units]:
    """Returns the forget gate σ(s) and the input gate 1 − σ(s − β)."""
    s, _ = jnp.split(drive + recurrent, 2, axis=-1)
    return jax.nn.sigmoid(s), jax.nn.sigmoid(jnp.asarray(beta, s.dtype) - s)

  def update(
    params: FlatParams,
    h: Units,
    drive: Float[CellArray, "*batch 2*H"],
    recurrent: Float[CellArray, "*batch 2*H"],
  ) -> Units:
    del params
    f, i = weights(drive, recurrent)
    n = jnp.tanh(jnp.split(drive + recurrent, 2, axis=-1)[1])
    return f * h + i * n

  def gates(params: FlatParams, h: Units, drive: Features, recurrent: Features) -> Gates:
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
