"""Long short-term memory whose gates see the cell state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.dense import dense_project, dense_recur, over, the_hidden_state
from rnn_jax.cells.lstm import LSTMCarry, lstm_init, zero_carry
from rnn_jax.types import Array, Cell, Params, unprepared


def peephole_lstm(
  hidden_size: int,
  *,
  forget_bias: Any = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Long short-term memory with peepholes: each unit's gates see its cell state.

    i, f = σ(x W + h U + p ∘ c + b)        g = tanh(x W_g + h U_g + b_g)
    c' = f ∘ c + i ∘ g
    o = σ(x W_o + h U_o + p_o ∘ c' + b_o)  h' = o ∘ tanh(c')

  The output gate sees the new c', the others the old c.

  Step Jacobian: along the cell state ∂c'/∂c = diag(f + f (1 − f) p_f c + i (1 − i) p_i g): the
  gates see c also where a shut output gate hides it from h. At first p = 0 and it is the LSTM's.

  Args:
    hidden_size: width H of hidden state, cell state and output.
    forget_bias: initial value of the forget gate's part of b.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": [D, 4·H], "w_h": [H, 4·H], "b": [4·H], "p": [3·H]}, gates in the order i, f, g,
    o, of which i, f and o have peepholes and are named input, forget and output.
  Raises:
    TypeError, ValueError: an unknown kernel, a size below 1, a bias or gain that is not finite.
  References:
    Gers and Schmidhuber, 2000, https://doi.org/10.1109/IJCNN.2000.861302
    Gers et al., 2002, https://www.jmlr.org/papers/v3/gers02a.html
  """
  dense = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
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


def _recur(params: Params, carry: LSTMCarry) -> Array:
  c = carry.cell
  p_i, p_f, _ = _peepholes(params, c)
  none = jnp.zeros_like(c)
  seen = jnp.concatenate([p_i * c, p_f * c, none, none], axis=-1)
  return dense_recur(params, carry.hidden) + seen


def _update(params: Params, carry: LSTMCarry, drive: Array, recurrent: Array) -> LSTMCarry:
  new, o = _cell_and_output_gate(params, carry, drive, recurrent)
  return LSTMCarry(o * jnp.tanh(new), new)


def _gates(params: Params, carry: LSTMCarry, drive: Array, recurrent: Array) -> dict[str, Array]:
  i, f, _, _ = jnp.split(jax.nn.sigmoid(drive + recurrent), 4, axis=-1)
  _, o = _cell_and_output_gate(params, carry, drive, recurrent)
  return {"input": i, "forget": f, "output": o}


def _cell_and_output_gate(
  params: Params, carry: LSTMCarry, drive: Array, recurrent: Array
) -> tuple[Array, Array]:
  """(c', o)."""
  a = drive + recurrent
  i, f, _, _ = jnp.split(jax.nn.sigmoid(a), 4, axis=-1)
  _, _, a_g, a_o = jnp.split(a, 4, axis=-1)
  new = f * carry.cell + i * jnp.tanh(a_g)
  _, _, p_o = _peepholes(params, new)
  return new, jax.nn.sigmoid(a_o + p_o * new)


def _peepholes(params: Params, c: Array) -> list[Array]:
  """p_i, p_f and p_o, with the axes of c [..., H]."""
  return jnp.split(over(params["p"], c), 3, axis=-1)
