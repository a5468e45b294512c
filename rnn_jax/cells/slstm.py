"""The sLSTM of xLSTM, an LSTM with an exponential input gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, hidden_recur, the_hidden_state
from rnn_jax.cells.heads import check_heads
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel
from rnn_jax.types import Array, Cell, CellArray, Features, FlatParams, Gates, Shape, Units


class SLSTMCarry(NamedTuple):
  """The carry of an sLSTM: h, cell state c, normalizer n and stabilizer m, each [..., H]."""

  hidden: Array
  cell: Array
  normalizer: Array
  stabilizer: Array


# Initial forget biases of a head's units, as functions of a unit's relative position r in the head:
# 0 for the first unit, 1 for the last.
FORGET_BIASES: Mapping[str, Callable[[Array], Array]] = {
  "power_law": lambda r: 5 - 12 * r**0.3,
  "linear": lambda r: 3 + 3 * r,
}


@memoized
def slstm(
  hidden_size: int, *, num_heads: int = 1, forget_biases: str = "power_law"
) -> Cell[FlatParams, SLSTMCarry, Array]:
  """sLSTM: an LSTM with an exponential input gate, a normalizer and a stabilizer.

    i = x W_i + h U_i + b_i           m' = max(i, ln σ(a_f) + m)       (m' = i where n = 0)
    g = tanh(x W_g + h U_g + b_g)     c' = f' ∘ c + i' ∘ g             i' = exp(i − m')
    o = σ(x W_o + h U_o + b_o)        n' = f' ∘ n + i'                 f' = exp(ln σ(a_f) + m − m')
    h' = o ∘ c' / n'

  with a_f = x W_f + h U_f + b_f. The ratio c / n is a weighted mean of all g so far. The weights
  exp(i) are unbounded, so a later input can outweigh all earlier ones. The stabilizer m is the
  logarithm of a scale that is factored out of c and n to avoid overflow; in exact arithmetic, this
  does not change h. n = 0 means that the memory is empty, as in the initial carry; in this case
  m' = i.

  Step Jacobian: the path through h runs through U, which is 0 at initialization, so at first
  dL/dh_t comes from y_t alone. The memory is linear: ∂c'/∂c = ∂n'/∂n = diag(f'). The mean c / n
  keeps a share f' n / n' of its old value; this share is near 1 until a large i arrives. (c, n, m)
  and (λ c, λ n, m − ln λ) represent the same memory and have the same outputs, so
  dL/dm = c dL/dc + n dL/dn, where the derivatives treat c, n and m as independent variables.

  Args:
    hidden_size: width H of each state and of the output.
    num_heads: N, a divisor of H. U is block-diagonal: a unit's gates read only the H/N units of its
      head. The paper uses 4.
    forget_biases: initialization of b_f as a function of a unit's relative position r in its head,
      from 0 to 1: `power_law`, 5 − 12 r^0.3, or `linear`, 3 + 3 r. (In the authors' code the
      exponent increases from 0.3 in the first layer to 1.6 in the last.)
  Returns:
    A Cell: x [..., D], carry SLSTMCarry(hidden, cell, normalizer, stabilizer), each [..., H],
    y [..., H]; params {"w_x": [D, 4·H], "w_h": U [H/N, 4·H], "b": [4·H]} in the order i, f, g, o.
    Column j of U reads the H/N units of the head that contains unit j mod H.
    Gates: {"forget": σ(a_f), "output": o}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `num_heads` does not divide it, or
      `forget_biases` is unknown.
  References:
    Beck et al., 2024, https://arxiv.org/abs/2405.04517; for the initialization, and for m' = i at
    the first step: https://github.com/NX-AI/xlstm
  """
  head_size = check_heads(hidden_size, num_heads)
  biases = FORGET_BIASES[checks.choice("forget_biases", forget_biases, FORGET_BIASES)]

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    width = 4 * hidden_size
    b_f = jnp.tile(biases(jnp.linspace(0, 1, head_size, dtype=dtype)), num_heads)
    return {
      "w_x": input_kernel(key, (input_size, width), dtype),
      "w_h": jnp.zeros((head_size, width), dtype),
      "b": jnp.zeros(width, dtype).at[hidden_size : 2 * hidden_size].set(b_f),
    }

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> SLSTMCarry:
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return SLSTMCarry(zeros, zeros, zeros, zeros)

  def prepare(params: FlatParams) -> FlatParams:
    if num_heads == 1:
      return params
    # Expand U to a dense [H, 4·H] kernel with zeros between different heads, because one large
    # product is faster than one small product per head.
    head = jnp.arange(hidden_size) // head_size
    same = jnp.tile(head[:, None] == head[None], (1, 4))
    w_h = jnp.tile(params["w_h"], (num_heads, 1))
    return {**params, "w_h": jnp.where(same, w_h, jnp.zeros_like(w_h))}

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=dense_project,
    recur=hidden_recur,
    update=_update,
    output=the_hidden_state,
    gates=_gates,
    recurrent_kernel="w_h" if num_heads == 1 else None,
  )


def _update(
  params: FlatParams, carry: SLSTMCarry, drive: Features, recurrent: Features
) -> SLSTMCarry:
  del params
  return fused_gates(drive + recurrent, carry.cell, carry.normalizer, carry.stabilizer)


def gates(a: Features, c: Units, n: Units, m: Units) -> SLSTMCarry:
  """Returns the new carry, computed exactly as the equations of `slstm` are written.

  The tests compare `fused_gates` with this function.

  Args:
    a: pre-activations [..., 4·H] in the order i, f, g, o.
    c, n, m: cell state, normalizer and stabilizer, each [..., H].
  """
  i, f, g, o = jnp.split(a, 4, axis=-1)
  kept = jnp.where(n == 0, -jnp.inf, jax.nn.log_sigmoid(f) + m)
  new_m = jnp.maximum(i, kept)
  i, f = jnp.exp(i - new_m), jnp.exp(kept - new_m)
  c = f * c + i * jnp.tanh(g)
  n = f * n + i
  return SLSTMCarry(jax.nn.sigmoid(o) * c / n, c, n, new_m)


@jax.custom_jvp
def fused_gates(a: Features, c: Units, n: Units, m: Units) -> SLSTMCarry:
  """Returns the new carry, as `gates` does.

  Its backward pass stores eight arrays [..., H] and the mask w, which is true where m' = i. Let
  ḋ = i̇ − (1 − σ(a_f)) ȧ_f − ṁ be the tangent of i − (ln σ(a_f) + m). The tangents are

    ċ' = f' ċ + (−f' c if w, else i' g) ḋ + i' (1 − g²) ȧ_g      ṁ' = i̇ if w, else i̇ − ḋ
    ṅ' = f' ṅ + (−f' n if w, else i') ḋ
    ḣ' = (o / n') ċ' − (h' / n') ṅ' + (1 − o) h' ȧ_o

  where i is a pre-activation, as in `slstm`, and ȧ_f, ȧ_g and ȧ_o are the blocks f, g and o of ȧ.
  """
  return gates(a, c, n, m)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray, CellArray, CellArray],
  tangents: tuple[Array, Array, Array, Array],
) -> tuple[SLSTMCarry, SLSTMCarry]:
  (a, c, n, m), (a_dot, c_dot, n_dot, m_dot) = primals, tangents
  new, i, f, g, o, spared, w = _activations(a, c, n, m)
  i_dot, f_dot, g_dot, o_dot = jnp.split(a_dot, 4, axis=-1)
  d = i_dot - spared * f_dot - m_dot
  new_c_dot = f * c_dot + jnp.where(w, -f * c, i * g) * d + i * (1 - g**2) * g_dot
  new_n_dot = f * n_dot + jnp.where(w, -f * n, i) * d
  h, n = new.hidden, new.normalizer
  h_dot = (o / n) * new_c_dot - (h / n) * new_n_dot + (1 - o) * h * o_dot
  return new, SLSTMCarry(h_dot, new_c_dot, new_n_dot, jnp.where(w, i_dot, i_dot - d))


def _activations(
  a: Features, c: Units, n: Units, m: Units
) -> tuple[SLSTMCarry, Units, Units, Units, Units, Units, Bool[Array, "*batch H"]]:
  """Returns the new carry, i', f', g, o, 1 − σ(a_f) and w; see `fused_gates` for w."""
  i, f, g, o = jnp.split(a, 4, axis=-1)
  forget, o = jax.nn.sigmoid(f), jax.nn.sigmoid(o)
  kept = jnp.where(n == 0, -jnp.inf, jax.nn.log_sigmoid(f) + m)
  w = i >= kept
  new_m = jnp.maximum(i, kept)
  i, f, g = jnp.exp(i - new_m), jnp.exp(kept - new_m), jnp.tanh(g)
  c = f * c + i * g
  n = f * n + i
  return SLSTMCarry(o * c / n, c, n, new_m), i, f, g, o, 1 - forget, w


def _gates(params: FlatParams, carry: SLSTMCarry, drive: Features, recurrent: Features) -> Gates:
  del params, carry
  _, f, _, o = jnp.split(jax.nn.sigmoid(drive + recurrent), 4, axis=-1)
  return {"forget": f, "output": o}
