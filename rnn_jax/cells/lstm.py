"""Long short-term memory (LSTM), and the functions that its variants share."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, hidden_recur, the_hidden_state
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import chrono_bias, drawn_in_float32, further_key
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  InitFn,
  InitialCarryFn,
  Number,
  Shape,
  Units,
  unprepared,
)


class LSTMCarry(NamedTuple):
  """The carry of an LSTM: the hidden state h and the cell state c, each [..., H]."""

  hidden: Array
  cell: Array


class LSTMGates(NamedTuple):
  """The input gate i, the forget gate f and the output gate o, each [..., H]."""

  input: Array
  forget: Array
  output: Array


def gate_values(a: Features) -> LSTMGates:
  """Returns the gates, given the pre-activations a [..., 4·H] in the order i, f, g, o."""
  i, f, _, o = jnp.split(jax.nn.sigmoid(a), 4, axis=-1)
  return LSTMGates(i, f, o)


def gates(a: Float[CellArray, "*batch W"], c: Units) -> tuple[Units, Units]:
  """Returns (h', c'), computed exactly as the equations of `lstm` are written.

  The tests compare `fused_gates` with this function.

  Args:
    a: pre-activations [..., 4·H] in the order i, f, g, o.
    c: the cell state [..., H].
  """
  i, f, o = gate_values(a)
  new = f * c + i * jnp.tanh(jnp.split(a, 4, axis=-1)[2])
  return o * jnp.tanh(new), new


@jax.custom_jvp
def fused_gates(a: Features, c: Units) -> tuple[Units, Units]:
  """Returns (h', c') from pre-activations a and cell state c, as `gates` does.

  Its backward pass stores six arrays [..., H]. The tangents are

    ċ' = f ċ + Σ k ȧ      ḣ' = k_o ȧ_o + o (1 − tanh² c') ċ'
    k = [i (1 − i) g,  f (1 − f) c,  i (1 − g²),  o (1 − o) tanh c']

  where Σ is the sum over the blocks i, f, g, and k_o and ȧ_o are the blocks o of k and ȧ.
  """
  return gates(a, c)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  (a, c), (a_dot, c_dot) = primals, tangents
  i, f, g, o, new, squashed = _activations(a, c)
  k = jnp.concatenate(
    [i * (1 - i) * g, f * (1 - f) * c, i * (1 - g**2), o * (1 - o) * squashed], axis=-1
  )
  i_part, f_part, g_part, o_part = jnp.split(k * a_dot, 4, axis=-1)
  new_dot = f * c_dot + i_part + f_part + g_part
  h_dot = o_part + o * (1 - squashed**2) * new_dot
  return (o * squashed, new), (h_dot, new_dot)


def _activations(a: Features, c: Units) -> tuple[Units, Units, Units, Units, Units, Units]:
  """Returns i, f, g, o, c' and tanh c'."""
  i, f, o = gate_values(a)
  g = jnp.tanh(jnp.split(a, 4, axis=-1)[2])
  new = f * c + i * g
  return i, f, g, o, new, jnp.tanh(new)


def zero_carry(hidden_size: int) -> InitialCarryFn[LSTMCarry]:
  """Returns the `initial_carry` of a cell whose carry is an LSTMCarry."""

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> LSTMCarry:
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMCarry(zeros, zeros)

  return initial_carry


def lstm_init(
  hidden_size: int, forget_bias: Number, kernel: str, gain: Number
) -> InitFn[FlatParams]:
  """Returns an `init` like `dense_init` for the gates i, f, g, o, with b_f = `forget_bias`."""
  checks.number("forget_bias", forget_bias)
  dense = dense_init(hidden_size, 4, kernel, gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = dense(key, input_size, dtype)
    b = params["b"]
    forget = jnp.asarray(forget_bias, b.dtype)
    return {**params, "b": b.at[hidden_size : 2 * hidden_size].set(forget)}

  return init


@memoized
def lstm(
  hidden_size: int,
  *,
  forget_gate: bool = True,
  forget_bias: Number = 1.0,
  chrono: Number | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, LSTMCarry, Array]:
  """Long short-term memory with a forget gate and without peepholes.

    i, f, o = σ(x W + h U + b)      g = tanh(x W_g + h U_g + b_g)
    c' = f ∘ c + i ∘ g              h' = o ∘ tanh(c')
    c' = c + i ∘ g                                        forget_gate=False

  Step Jacobian: along the cell state ∂c'/∂c = diag(f), so with f near 1 the gradient passes
  unchanged (the constant-error carousel). The path through h adds products of the gates'
  derivatives with U. Without a forget gate ∂c'/∂c is I, so the gradient of c never decays, but c
  may grow without bound.

  Args:
    hidden_size: width H of hidden state, cell state and output.
    forget_gate: False for f = 1, as in the LSTM of 1997 (whose squashing functions differ).
    forget_bias: initial value of the forget gate's block of b. Ignored with `chrono`, or without a
      forget gate.
    chrono: T_max, the longest expected dependency in steps. Initializes b_f = ln u with
      u ~ U(1, T_max − 1), and b_i = −b_f, so that the units' time scales spread up to T_max. None
      for b_f = `forget_bias`, b_i = 0.
    recurrent_kernel: initialization of each gate's block of U: `orthogonal`, `gaussian` or
      `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry LSTMCarry(hidden [..., H], cell [..., H]), y [..., H];
    params {"w_x": [D, 4·H], "w_h": [H, 4·H], "b": [4·H]} in the order i, f, g, o; without a forget
    gate 3·H in place of 4·H, in the order i, g, o.
    Gates: {"input": i, "forget": f, "output": o}, or {"input": i, "output": o}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, `forget_bias`
      or `recurrent_gain` is not a finite number, `chrono` is not above 2, or `chrono` is given
      without a forget gate.
  References:
    Hochreiter and Schmidhuber, 1997, https://doi.org/10.1162/neco.1997.9.8.1735
    Gers et al., 2000 (forget gate), https://doi.org/10.1162/089976600300015015
    Jozefowicz et al., 2015 (forget bias 1), https://proceedings.mlr.press/v37/jozefowicz15.html
    Tallec and Ollivier, 2018 (chrono), https://arxiv.org/abs/1804.11188
  """
  checks.boolean("forget_gate", forget_gate)
  if not forget_gate and chrono is not None:
    raise ValueError(f"chrono is for forget_gate=True, got chrono={chrono} without a forget gate.")
  init = lstm_init(hidden_size, forget_bias, recurrent_kernel, recurrent_gain)
  if chrono is not None:
    init = _with_chrono(init, hidden_size, checks.number("chrono", chrono, above=2))
  if not forget_gate:
    init = dense_init(hidden_size, 3, recurrent_kernel, recurrent_gain)
  return Cell(
    init=init,
    initial_carry=zero_carry(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=hidden_recur,
    update=_update if forget_gate else _update_without_forgetting,
    output=the_hidden_state,
    gates=_gates if forget_gate else _gates_without_forgetting,
    recurrent_kernel="w_h",
  )


def _with_chrono(init: InitFn[FlatParams], hidden_size: int, longest: Number) -> InitFn[FlatParams]:
  forget_bias = chrono_bias(longest)

  def with_biases(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = init(key, input_size, dtype)
    b = params["b"]
    b_f = forget_bias(further_key(key), (hidden_size,), b.dtype)
    return {**params, "b": b.at[: 2 * hidden_size].set(jnp.concatenate([-b_f, b_f]))}

  return with_biases


def _update(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> LSTMCarry:
  del params
  return LSTMCarry(*fused_gates(drive + recurrent, carry.cell))


def _gates(params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features) -> Gates:
  del params, carry
  return gate_values(drive + recurrent)._asdict()


def _update_without_forgetting(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> LSTMCarry:
  del params
  i, o = _input_and_output(drive + recurrent)
  new = carry.cell + i * jnp.tanh(jnp.split(drive + recurrent, 3, axis=-1)[1])
  return LSTMCarry(o * jnp.tanh(new), new)


def _gates_without_forgetting(
  params: FlatParams, carry: LSTMCarry, drive: Features, recurrent: Features
) -> Gates:
  del params, carry
  i, o = _input_and_output(drive + recurrent)
  return {"input": i, "output": o}


def _input_and_output(a: Features) -> tuple[Units, Units]:
  """Returns the gates i and o, given the pre-activations a [..., 3·H] in the order i, g, o."""
  i, _, o = jnp.split(jax.nn.sigmoid(a), 3, axis=-1)
  return i, o
