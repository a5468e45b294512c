"""Long short-term memory with a recurrent kernel of its own for every input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.dense import dense_project, product, the_hidden_state
from rnn_jax.cells.lstm import LSTMCarry, fused_gates, gate_values, lstm_init, zero_carry
from rnn_jax.initializers import further_key, input_kernel
from rnn_jax.initializers import recurrent_kernel as make_kernel
from rnn_jax.types import Array, Cell, Params, unprepared


def multiplicative_lstm(
  hidden_size: int,
  *,
  forget_bias: Any = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Multiplicative long short-term memory: x chooses the way from h to the gates.

    m = (x W_m) ∘ (h U_m)
    i, f, o = σ(x W + m U + b)      g = tanh(x W_g + m U_g + b_g)
    c' = f ∘ c + i ∘ g              h' = o ∘ tanh(c')

  All that the gates know of h is m: their recurrent kernel U_m diag(x W_m) U is another one for
  every input. After m it is the LSTM, as in the code of the authors' best results; their first
  experiments have g = a_g, without tanh, and h' = tanh(o ∘ c').

  Step Jacobian: along the cell state ∂c'/∂c = diag(f). The path through h has the factors x W_m:
  an input for which they are 0 shuts it, and x = 0 does.

  Args:
    hidden_size: width H of hidden state, m, cell state and output.
    forget_bias: initial value of the forget gate's part of b.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`: U_m, and one block of U a gate.
    recurrent_gain: factor on U_m and U at initialisation.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": W_m beside W [D, 5·H], "w_h": U_m [H, H], "w_m": U [H, 4·H], "b": [4·H]}, gates
    in the order i, f, g, o, of which i, f and o are named input, forget and output.
  Raises:
    TypeError, ValueError: an unknown kernel, a size below 1, a bias or gain that is not finite.
  References:
    Krause et al., 2016, https://arxiv.org/abs/1609.07959
  """
  gated = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)
  init_w_h = make_kernel(recurrent_kernel, recurrent_gain)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
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


def _project(params: Params, xs: Array, key: Array | None = None) -> Array:
  # m has no bias.
  b = jnp.pad(params["b"], (params["w_h"].shape[0], 0))
  return dense_project({"w_x": params["w_x"], "b": b}, xs, key, bias=True)


def _recur(params: Params, carry: LSTMCarry) -> Array:
  return product(carry.hidden, params["w_h"])


def _update(params: Params, carry: LSTMCarry, drive: Array, recurrent: Array) -> LSTMCarry:
  return LSTMCarry(*fused_gates(_activations(params, drive, recurrent), carry.cell))


def _gates(params: Params, carry: LSTMCarry, drive: Array, recurrent: Array) -> dict[str, Array]:
  del carry
  return gate_values(_activations(params, drive, recurrent))


def _activations(params: Params, drive: Array, recurrent: Array) -> Array:
  """a = x W + m U + b, [..., 4·H]."""
  hidden_size = recurrent.shape[-1]
  m = drive[..., :hidden_size] * recurrent
  return drive[..., hidden_size:] + product(m, params["w_m"])
