"""The LSTM with layer normalization inside its step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax.cells.dense import (
  dense_project,
  expand_like,
  product,
  standardize,
  the_hidden_state,
)
from rnn_jax.cells.lstm import LSTMCarry, gate_values, lstm_init, zero_carry
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Inputs,
  Number,
  Units,
  unprepared,
)


@memoized
def layer_norm_lstm(
  hidden_size: int,
  *,
  forget_bias: Number = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, LSTMCarry, Array]:
  """Layer-normalized LSTM: normalizes x W, h U, and the cell state where the output reads it.

    a = γ_x ∘ N(x W) + γ_h ∘ N(h U) + b
    i, f, o = σ(a)      g = tanh(a_g)
    c' = f ∘ c + i ∘ g              h' = o ∘ tanh(γ_c ∘ N(c') + β_c)

    N(v) = (v − mean v) / √(var v + ε)      ε = 1e-6

  N(x W) and N(h U) take mean and variance over all 4·H entries of the four gates. In the paper each
  of the three normalizations has a shift β; β_x and β_h occur only in the sum β_x + β_h + b, for
  which this cell has the single param b.

  Step Jacobian: along the cell state ∂c'/∂c = diag(f), as in the LSTM, because c itself is not
  normalized. The path through h does not depend on the scale of U, because N(h U) does not. As h
  shrinks, ∂N(h U)/∂h grows as 1/|h|, up to |U|/√ε. At initialization, and while x, h and c are all
  0, ∂h'/∂h is (U_g − the mean of each of its rows)/(4 ε). Every step before the first nonzero input
  therefore multiplies a gradient by about 10⁵, and eight such steps overflow float32.

  Args:
    hidden_size: width H of hidden state, cell state and output. N(c') needs several units: with one
      unit it is 0, with two it retains little more than the sign of their difference.
    forget_bias: initial value of the forget gate's block of b.
    recurrent_kernel: initialization of each gate's block of U: `orthogonal`, `gaussian` or
      `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization; it has little effect, because
      N(h U) hardly depends on it.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": [D, 4·H], "w_h": [H, 4·H], "b": [4·H], "scale_x": γ_x [4·H],
    "scale_h": γ_h [4·H], "scale_c": γ_c [H], "shift_c": β_c [H]} in the order i, f, g, o, with
    γ = 1 and β = 0 at initialization. Gates: {"input": i, "forget": f, "output": o}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `forget_bias` or `recurrent_gain` is not a finite number.
  References:
    Ba et al., 2016, supplementary material, equations 20 to 22, https://arxiv.org/abs/1607.06450
  """
  dense = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
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


def _project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> Features:
  products = dense_project(params, xs, key)
  return _scaled(params, "scale_x", products) + expand_like(params["b"], products)


def _recur(params: FlatParams, carry: LSTMCarry) -> Features:
  return product(carry.hidden, params["w_h"])


def _update(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> LSTMCarry:
  new, o = fused_gates(drive + _scaled(params, "scale_h", recurrent), carry.cell)
  seen = _scaled(params, "scale_c", new) + expand_like(params["shift_c"], new)
  return LSTMCarry(o * jnp.tanh(seen), new)


def gates(a: Features, c: Units) -> tuple[Units, Units]:
  """Returns (c', o), computed exactly as the equations of `layer_norm_lstm` are written.

  The tests compare `fused_gates` with this function.

  Args:
    a: pre-activations [..., 4·H] in the order i, f, g, o.
    c: the cell state [..., H].
  """
  i, f, o = gate_values(a)
  return f * c + i * jnp.tanh(jnp.split(a, 4, axis=-1)[2]), o


@jax.custom_jvp
def fused_gates(a: Features, c: Units) -> tuple[Units, Units]:
  """Returns (c', o) from pre-activations a and cell state c, as `gates` does.

  Its backward pass stores five arrays [..., H]. The tangents are

    ċ' = f ċ + Σ k ȧ      ȯ = k_o ȧ_o
    k = [i (1 − i) g,  f (1 − f) c,  i (1 − g²),  o (1 − o)]

  where Σ is the sum over the blocks i, f, g, and k_o and ȧ_o are the blocks o of k and ȧ.
  """
  return gates(a, c)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  (a, c), (a_dot, c_dot) = primals, tangents
  i, f, o = gate_values(a)
  g = jnp.tanh(jnp.split(a, 4, axis=-1)[2])
  k = jnp.concatenate([i * (1 - i) * g, f * (1 - f) * c, i * (1 - g**2), o * (1 - o)], axis=-1)
  i_part, f_part, g_part, o_dot = jnp.split(k * a_dot, 4, axis=-1)
  return (f * c + i * g, o), (f * c_dot + i_part + f_part + g_part, o_dot)


def _gates(params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features) -> Gates:
  del carry
  return gate_values(drive + _scaled(params, "scale_h", recurrent))._asdict()


def _scaled(params: FlatParams, scale: str, a: Features) -> Features:
  """Returns γ ∘ N(a), where γ is the param named `scale`."""
  return expand_like(params[scale], a) * standardize(a)
