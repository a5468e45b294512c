"""The multiplicative LSTM, whose recurrent kernel depends on the input."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax.cells.dense import product, split_project, the_hidden_state
from rnn_jax.cells.lstm import LSTMCarry, fused_gates, gate_values, lstm_init, zero_carry
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32, further_key, input_kernel
from rnn_jax.initializers import recurrent_kernel as make_kernel
from rnn_jax.types import (
  Array,
  Cell,
  Features,
  FlatParams,
  Gates,
  Inputs,
  Number,
  Units,
  unprepared,
)

Drives: TypeAlias = tuple[Units, Features]  # x W_m [..., H] and x W + b [..., 4·H]


@memoized
def multiplicative_lstm(
  hidden_size: int,
  *,
  forget_bias: Number = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, LSTMCarry, Drives]:
  """Multiplicative LSTM: the input selects the recurrent kernel.

    m = (x W_m) ∘ (h U_m)
    i, f, o = σ(x W + m U + b)      g = tanh(x W_g + m U_g + b_g)
    c' = f ∘ c + i ∘ g              h' = o ∘ tanh(c')

  The gates read h only through m, so their effective recurrent kernel, U_m diag(x W_m) U, depends
  on the input. Apart from m, the equations are the LSTM's, as in the authors' code for their best
  results. (In the authors' first experiments, g = x W_g + m U_g + b_g, without tanh, and
  h' = tanh(o ∘ c').)

  Step Jacobian: along the cell state ∂c'/∂c = diag(f). The path through h has the factor
  diag(x W_m), so at x = 0 no gradient passes along this path.

  Args:
    hidden_size: width H of hidden state, m, cell state and output.
    forget_bias: initial value of the forget gate's block of b.
    recurrent_kernel: initialization of U_m and of each gate's block of U: `orthogonal`, `gaussian`
      or `identity`.
    recurrent_gain: factor on U_m and U at initialization.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": W_m and W side by side [D, 5·H], "w_h": U_m [H, H], "w_m": U [H, 4·H],
    "b": [4·H]} in the order i, f, g, o. Gates: {"input": i, "forget": f, "output": o}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `forget_bias` or `recurrent_gain` is not a finite number.
  References:
    Krause et al., 2016, https://arxiv.org/abs/1609.07959
  """
  gated = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)
  init_w_h = make_kernel(recurrent_kernel, recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    x_key, h_key = jax.random.split(further_key(key))
    params = gated(key, input_size, dtype)
    w_x, b = params["w_x"], params["b"]
    w_m = input_kernel(x_key, (input_size, hidden_size), w_x.dtype)
    return {
      "w_x": jnp.concatenate([w_m, w_x], axis=-1),
      "w_h": init_w_h(h_key, (hidden_size, hidden_size), w_x.dtype),
      "w_m": params["w_h"],
      "b": b,
    }

  return Cell(
    init=init,
    initial_carry=zero_carry(hidden_size),
    prepare=unprepared,
    project=_project,
    recur=_recur,
    update=_update,
    output=the_hidden_state,
    gates=_gates,
    recurrent_kernel="w_h",
  )


def _project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> Drives:
  hidden_size = params["w_h"].shape[0]
  # Pad b with zeros for the first block, x W_m, which has no bias.
  b = jnp.pad(params["b"], (hidden_size, 0))
  return split_project({"w_x": params["w_x"], "b": b}, xs, key, width=hidden_size)


def _recur(params: FlatParams, carry: LSTMCarry) -> Units:
  return product(carry.hidden, params["w_h"])


def _update(params: FlatParams, carry: LSTMCarry, drive: Drives, recurrent: Units) -> LSTMCarry:
  return LSTMCarry(*fused_gates(_pre_activations(params, drive, recurrent), carry.cell))


def _gates(params: FlatParams, carry: LSTMCarry, drive: Drives, recurrent: Units) -> Gates:
  del carry
  return gate_values(_pre_activations(params, drive, recurrent))._asdict()


def _pre_activations(
  params: FlatParams, drive: Drives, recurrent: Units
) -> Float[Array, "*batch 4*H"]:
  """Returns the gates' pre-activations x W + m U + b, in the order i, f, g, o."""
  x_m, x = drive
  return x + product(x_m * recurrent, params["w_m"])
