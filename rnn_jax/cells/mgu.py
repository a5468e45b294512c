"""The minimal gated unit, a GRU with a single gate."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, plain_recur, product, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  FlatParams,
  Gates,
  Number,
  PlainCell,
  Units,
  unprepared,
)


@memoized
def mgu(
  hidden_size: int,
  *,
  reset: str = "after",
  forget_bias: Number = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Minimal gated unit: a GRU whose only gate f is the share of the old carry that is kept.

    f = σ(x W_f + h U_f + b_f)
    n = tanh(x W_n + b_n + f ∘ (h U_n))              reset="after"
    n = tanh(x W_n + b_n + ((1 − f) ∘ h) U_n)        reset="before"
    h' = f ∘ h + (1 − f) ∘ n

  The paper's unit is reset="before". The paper's gate is 1 − f, the share of the carry that is
  replaced, so its W_f, U_f and b_f have the opposite sign. Flax's MGUCell is reset="after", with an
  additional bias on h U_n.

  Step Jacobian: at h = x = b = 0 it is ½ I + ¼ U_n. Where f is near 1 it is near I, and the
  gradient passes unchanged.

  Args:
    hidden_size: width H of carry and output.
    reset: where the gate acts in n: `after` the recurrent product or `before` it.
    forget_bias: initial value of b_f.
    recurrent_kernel: initialization of U_f and U_n: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": [H, 2·H], "b": [2·H]} in the order f, n. Gates: {"forget": f}.
  Raises:
    TypeError, ValueError: if `reset` or `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `forget_bias` or `recurrent_gain` is not a finite number.
  References:
    Zhou et al., 2016, https://arxiv.org/abs/1603.09420
  """
  checks.choice("reset", reset, ("after", "before"))
  checks.number("forget_bias", forget_bias)
  dense = dense_init(hidden_size, 2, recurrent_kernel, recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = dense(key, input_size, dtype)
    b = params["b"]
    return {**params, "b": b.at[:hidden_size].set(jnp.asarray(forget_bias, b.dtype))}

  before = reset == "before"
  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    # Add b to the drive, because f scales the recurrent product, but must not scale b.
    project=functools.partial(dense_project, bias=True),
    recur=_recur_before if before else plain_recur,
    update=_update_before if before else _update,
    output=the_carry,
    gates=_gates,
    recurrent_kernel=None if before else "w_h",
    output_is_carry=True,
  )


def _recur_before(params: FlatParams, h: Units) -> Units:
  return product(h, params["w_h"][:, : h.shape[-1]])


def _update(
  params: FlatParams,
  h: Units,
  drive: Float[CellArray, "*batch 2*H"],
  recurrent: Float[CellArray, "*batch 2*H"],
) -> Units:
  del params
  f = _forget(h, drive, recurrent)
  n = jnp.tanh(drive[..., h.shape[-1] :] + f * recurrent[..., h.shape[-1] :])
  return f * h + (1 - f) * n


def _update_before(
  params: FlatParams, h: Units, drive: Float[CellArray, "*batch 2*H"], recurrent: Units
) -> Units:
  width = h.shape[-1]
  f = _forget(h, drive, recurrent)
  n = jnp.tanh(drive[..., width:] + product((1 - f) * h, params["w_h"][:, width:]))
  return f * h + (1 - f) * n


def _forget(h: Units, drive: Float[CellArray, "*batch 2*H"], recurrent: Array) -> Units:
  """Returns f. Its pre-activation is the sum of the first H columns of drive and `recurrent`."""
  width = h.shape[-1]
  return jax.nn.sigmoid(drive[..., :width] + recurrent[..., :width])


def _gates(params: FlatParams, h: Units, drive: Array, recurrent: Array) -> Gates:
  del params
  return {"forget": _forget(h, drive, recurrent)}
