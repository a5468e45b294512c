"""Long short-term memory that normalises within its step."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rnn_jax.cells.dense import dense_project, over, product, the_hidden_state
from rnn_jax.cells.lstm import LSTMCarry, gate_values, lstm_init, zero_carry
from rnn_jax.cells.wrappers.layer_norm import standardize
from rnn_jax.types import Array, Cell, Params, unprepared


def layer_norm_lstm(
  hidden_size: int,
  *,
  forget_bias: Any = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Layer-normalised long short-term memory: of its two products, and of c on its way to h.

    a = γ_x ∘ N(x W) + γ_h ∘ N(h U) + b
    i, f, o = σ(a)      g = tanh(a_g)
    c' = f ∘ c + i ∘ g              h' = o ∘ tanh(γ_c ∘ N(c') + β_c)

    N(v) = (v − mean v) / √(var v + ε)      ε = 1e-6

  N(x W) and N(h U) are over all 4·H entries of the four gates. The paper gives each of the three
  a shift β of its own; β_x and β_h only ever come as β_x + β_h + b, and are b here.

  Step Jacobian: along the cell state ∂c'/∂c = diag(f), as in the LSTM: c itself is not normalised.
  The path through h does not see how large U is: N(h U) is the same for every multiple of it, and
  ∂N(h U)/∂h goes as 1/|h|, up to |U|/√ε next to h = 0. Where nothing has come in yet, x, h and c
  are 0, ∂h'/∂h is at first U_g/(4 ε), less the mean of each of its rows: every step before the
  first input that is not 0 multiplies a gradient by 10⁵, and eight of them are beyond float32.

  Args:
    hidden_size: width H of hidden state, cell state and output. N(c') needs some units to compare:
      of one it is 0, of two it is little more than the sign of their difference.
    forget_bias: initial value of the forget gate's part of b.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation, which N(h U) hardly sees.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": [D, 4·H], "w_h": [H, 4·H], "b": [4·H], "scale_x": γ_x [4·H],
    "scale_h": γ_h [4·H], "scale_c": γ_c [H], "shift_c": β_c [H]}, γ = 1 and β = 0 at first, gates
    in the order i, f, g, o, of which i, f and o are named input, forget and output.
  Raises:
    TypeError, ValueError: an unknown kernel, a size below 1, a bias or gain that is not finite.
  References:
    Ba et al., 2016, supplementary material, equations 20 to 22, https://arxiv.org/abs/1607.06450
  """
  dense = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    params = dense(key, input_size, dtype)
    ones = jnp.ones_like(params["b"])
    return {
      **params,
      "scale_x": ones,
      "scale_h": ones,
      "scale_c": ones[:hidden_size],
      "shift_c": jnp.zeros_like(ones[:hidden_size]),
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
  products = dense_project(params, xs, key)
  return _scaled(params, "scale_x", products) + over(params["b"], products)


def _recur(params: Params, carry: LSTMCarry) -> Array:
  return product(carry.hidden, params["w_h"])


def _update(params: Params, carry: LSTMCarry, drive: Array, recurrent: Array) -> LSTMCarry:
  a = drive + _scaled(params, "scale_h", recurrent)
  i, f, o = gate_values(a).values()
  new = f * carry.cell + i * jnp.tanh(jnp.split(a, 4, axis=-1)[2])
  seen = _scaled(params, "scale_c", new) + over(params["shift_c"], new)
  return LSTMCarry(o * jnp.tanh(seen), new)


def _gates(params: Params, carry: LSTMCarry, drive: Array, recurrent: Array) -> dict[str, Array]:
  del carry
  return gate_values(drive + _scaled(params, "scale_h", recurrent))


def _scaled(params: Params, scale: str, a: Array) -> Array:
  """γ ∘ N(a)."""
  return over(params[scale], a) * standardize(a)
