"""The LSTM with peepholes, whose gates read the cell state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax.cells.dense import dense_project, dense_recur, expand_like, the_hidden_state
from rnn_jax.cells.lstm import LSTMCarry, lstm_init, zero_carry
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import Array, Cell, Features, FlatParams, Gates, Number, Units, unprepared


@memoized
def peephole_lstm(
  hidden_size: int,
  *,
  forget_bias: Number = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, LSTMCarry, Array]:
  """LSTM with peepholes: each unit's gates also read that unit's cell state.

    i, f = σ(x W + h U + p ∘ c + b)        g = tanh(x W_g + h U_g + b_g)
    c' = f ∘ c + i ∘ g
    o = σ(x W_o + h U_o + p_o ∘ c' + b_o)  h' = o ∘ tanh(c')

  p, p_o are the peephole weights. The output gate reads the new cell state c'; the other gates read
  the old c.

  Step Jacobian: along the cell state ∂c'/∂c = diag(f + f (1 − f) p_f c + i (1 − i) p_i g). The
  terms with p arise because the gates read c, even where a closed output gate hides it from h. At
  initialization p = 0, and the Jacobian is that of the LSTM.

  Args:
    hidden_size: width H of hidden state, cell state and output.
    forget_bias: initial value of the forget gate's block of b.
    recurrent_kernel: initialization of each gate's block of U: `orthogonal`, `gaussian` or
      `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": [D, 4·H], "w_h": [H, 4·H], "b": [4·H], "p": [3·H]}; p in the order i, f, o, the
    other params in the order i, f, g, o. Gates: {"input": i, "forget": f, "output": o}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `forget_bias` or `recurrent_gain` is not a finite number.
  References:
    Gers and Schmidhuber, 2000, https://doi.org/10.1109/IJCNN.2000.861302
    Gers et al., 2002, https://www.jmlr.org/papers/v3/gers02a.html
  """
  dense = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = dense(key, input_size, dtype)
    return {**params, "p": jnp.zeros(3 * hidden_size, params["b"].dtype)}

  return Cell(
    init=init,
    initial_carry=zero_carry(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=_recur,
    update=_update,
    output=the_hidden_state,
    gates=_gates,
  )


def _recur(params: FlatParams, carry: LSTMCarry) -> Features:
  c = carry.cell
  p_i, p_f, _ = _peepholes(params, c)
  none = jnp.zeros_like(c)
  seen = jnp.concatenate([p_i * c, p_f * c, none, none], axis=-1)
  return dense_recur(params, carry.hidden) + seen


def _update(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> LSTMCarry:
  new, o = _cell_and_output_gate(params, carry, drive, recurrent)
  return LSTMCarry(o * jnp.tanh(new), new)


def _gates(params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features) -> Gates:
  i, f, _, _ = jnp.split(jax.nn.sigmoid(drive + recurrent), 4, axis=-1)
  _, o = _cell_and_output_gate(params, carry, drive, recurrent)
  return {"input": i, "forget": f, "output": o}


def _cell_and_output_gate(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> tuple[Units, Units]:
  """Returns the new cell state c' and the output gate o, which reads c'."""
  a = drive + recurrent
  i, f, _, _ = jnp.split(jax.nn.sigmoid(a), 4, axis=-1)
  _, _, a_g, a_o = jnp.split(a, 4, axis=-1)
  new = f * carry.cell + i * jnp.tanh(a_g)
  _, _, p_o = _peepholes(params, new)
  return new, jax.nn.sigmoid(a_o + p_o * new)


def _peepholes(params: FlatParams, c: Units) -> tuple[Array, Array, Array]:
  """Returns p_i, p_f and p_o, with leading axes of size 1 to broadcast with c."""
  p_i, p_f, p_o = jnp.split(expand_like(params["p"], c), 3, axis=-1)
  return p_i, p_f, p_o
