"""The LSTM with peepholes, whose gates read the cell state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax.cells.dense import dense_project, dense_recur, expand_like, the_hidden_state
from rnn_jax.cells.lstm import LSTMCarry, lstm_init, zero_carry
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Number,
  Units,
  unprepared,
)


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


def gates(a: Features, c: Units, p_o: Float[CellArray, "*ones H"]) -> tuple[Units, Units]:
  """Returns (h', c'), computed exactly as the equations of `peephole_lstm` are written.

  The tests compare `fused_gates` with this function.

  Args:
    a: pre-activations [..., 4·H] in the order i, f, g, o. Those of i and f include p ∘ c, but that
      of o does not include p_o ∘ c'.
    c: the cell state [..., H].
    p_o: the output gate's peephole weights, broadcasting with c.
  """
  a_i, a_f, a_g, a_o = jnp.split(a, 4, axis=-1)
  new = jax.nn.sigmoid(a_f) * c + jax.nn.sigmoid(a_i) * jnp.tanh(a_g)
  return jax.nn.sigmoid(a_o + p_o * new) * jnp.tanh(new), new


@jax.custom_jvp
def fused_gates(a: Features, c: Units, p_o: Float[CellArray, "*ones H"]) -> tuple[Units, Units]:
  """Returns (h', c') from pre-activations a, cell state c and peephole p_o, as `gates` does.

  Its backward pass stores seven arrays [..., H]. The tangents are

    ċ' = f ċ + Σ k ȧ      ḣ' = k_o (ȧ_o + c' ṗ_o) + (k_o p_o + o (1 − tanh² c')) ċ'
    k = [i (1 − i) g,  f (1 − f) c,  i (1 − g²),  o (1 − o) tanh c']

  where Σ is the sum over the blocks i, f, g, and k_o and ȧ_o are the blocks o of k and ȧ.
  """
  return gates(a, c, p_o)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray, CellArray], tangents: tuple[Array, Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  (a, c, p_o), (a_dot, c_dot, p_dot) = primals, tangents
  i, f, g, o, new, squashed = _activations(a, c, p_o)
  k_o = o * (1 - o) * squashed
  k = jnp.concatenate([i * (1 - i) * g, f * (1 - f) * c, i * (1 - g**2), k_o], axis=-1)
  i_part, f_part, g_part, o_part = jnp.split(k * a_dot, 4, axis=-1)
  new_dot = f * c_dot + i_part + f_part + g_part
  h_dot = o_part + k_o * new * p_dot + (k_o * p_o + o * (1 - squashed**2)) * new_dot
  return (o * squashed, new), (h_dot, new_dot)


def _activations(
  a: Features, c: Units, p_o: Float[CellArray, "*ones H"]
) -> tuple[Units, Units, Units, Units, Units, Units]:
  """Returns i, f, g, o, c' and tanh c'."""
  a_i, a_f, a_g, a_o = jnp.split(a, 4, axis=-1)
  i, f, g = jax.nn.sigmoid(a_i), jax.nn.sigmoid(a_f), jnp.tanh(a_g)
  new = f * c + i * g
  return i, f, g, jax.nn.sigmoid(a_o + p_o * new), new, jnp.tanh(new)


def _recur(params: FlatParams, carry: LSTMCarry) -> Features:
  c = carry.cell
  p_i, p_f, _ = _peepholes(params, c)
  none = jnp.zeros_like(c)
  seen = jnp.concatenate([p_i * c, p_f * c, none, none], axis=-1)
  return dense_recur(params, carry.hidden) + seen


def _update(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> LSTMCarry:
  _, _, p_o = _peepholes(params, carry.cell)
  return LSTMCarry(*fused_gates(drive + recurrent, carry.cell, p_o))


def _gates(params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features) -> Gates:
  _, _, p_o = _peepholes(params, carry.cell)
  i, f, _, o, _, _ = _activations(drive + recurrent, carry.cell, p_o)
  return {"input": i, "forget": f, "output": o}


def _peepholes(params: FlatParams, c: Units) -> tuple[Array, Array, Array]:
  """Returns p_i, p_f and p_o, with leading axes of size 1 to broadcast with c."""
  p_i, p_f, p_o = jnp.split(expand_like(params["p"], c), 3, axis=-1)
  return p_i, p_f, p_o
