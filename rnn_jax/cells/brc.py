"""The bistable recurrent cells BRC and nBRC, whose units can latch one of two values."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, plain_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Inputs,
  Number,
  PlainCell,
  Units,
  unprepared,
)


@memoized
def brc(hidden_size: int, *, recurrent_gain: Number = 1.0) -> PlainCell:
  """Bistable recurrent cell: each unit feeds back only to itself and can latch one of two values.

    c = σ(x W_c + w_c ∘ h + b_c)      a = 1 + tanh(x W_a + w_a ∘ h + b_a)
    h' = c ∘ h + (1 − c) ∘ n          n = tanh(x W_n + a ∘ h)

  A unit whose feedback a is below 1 forgets: without input, h = 0 is its only fixed point. Above 1,
  it is bistable: h = 0 is unstable, and h stays at one of two values ±h*, where h* = tanh(a h*).

  Step Jacobian: diag(c + (1 − c) ∘ (1 − n²) ∘ (a + h ∘ w_a ∘ a ∘ (2 − a)) +
  w_c ∘ (h − n) ∘ c ∘ (1 − c)). At h = 0 and without input it is diag(1 + (1 − c) ∘ (a − 1)), which
  crosses 1 at a = 1.

  Gradient flow: on a unit's path through itself, every step multiplies the gradient by
  c + (1 − c) a (1 − n²), which is above 1 while a bistable unit leaves 0, and below 1 once it has
  latched. A gate between 0 and 1 cannot amplify the gradient on that path; the feedback a can.

  Args:
    hidden_size: width H of carry and output.
    recurrent_gain: factor on w_c and w_a at initialization, where each entry is 1, as in the
      authors' code.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [2·H], "b": [2·H]} in the order c, a, n, where w_h and b have no
    block n. W is Glorot uniform at initialization, as in the authors' code.
    Gates: {"update": c, "feedback": a/2}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `recurrent_gain` is not a finite number.
  References:
    Vecoven et al., 2021, https://arxiv.org/abs/2006.05252, and their code,
    https://github.com/nvecoven/BRC, which adds the biases b_c and b_a to the paper's equations
  """

  def ones(key: Key[Array, ""], dtype: DTypeLike) -> Array:
    del key
    return jnp.ones(2 * hidden_size, dtype)

  cell = _cell(hidden_size, ones, recurrent_gain)
  return cell._replace(recur=_own_recur)


@memoized
def nbrc(hidden_size: int, *, recurrent_gain: Number = 1.0) -> PlainCell:
  """Neuromodulated bistable cell: a BRC in which each unit's gate and feedback read all units.

    c = σ(x W_c + h U_c + b_c)      a = 1 + tanh(x W_a + h U_a + b_a)
    h' = c ∘ h + (1 − c) ∘ n        n = tanh(x W_n + a ∘ h)

  Step Jacobian: diag(c + (1 − c) ∘ (1 − n²) ∘ a) + U_a diag((1 − c) ∘ (1 − n²) ∘ h ∘ a ∘ (2 − a)) +
  U_c diag((h − n) ∘ c ∘ (1 − c)). At h = 0 and without input it is diag(1 + (1 − c) ∘ (a − 1)),
  which crosses 1 at a = 1.

  Gradient flow: on a unit's path through itself, every step multiplies the gradient by the same
  factor as in `brc`. From one unit to another, the gradient flows through the gates alone.

  Args:
    hidden_size: width H of carry and output.
    recurrent_gain: factor on U_c and U_a at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 2·H], "b": [2·H]} in the order c, a, n, where w_h and b have
    no block n. Each block of W and U is Glorot uniform at initialization, as in the authors' code.
    Gates: {"update": c, "feedback": a/2}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `recurrent_gain` is not a finite number.
  References:
    Vecoven et al., 2021, https://arxiv.org/abs/2006.05252, and their code,
    https://github.com/nvecoven/BRC, which adds the biases b_c and b_a to the paper's equations
  """

  def blocks(key: Key[Array, ""], dtype: DTypeLike) -> Array:
    return _glorot_blocks(key, hidden_size, hidden_size, 2, dtype)

  cell = _cell(hidden_size, blocks, recurrent_gain)
  return cell._replace(recur=plain_recur, recurrent_kernel="w_h")


def _cell(
  hidden_size: int, init_w_h: Callable[[Key[Array, ""], DTypeLike], Array], recurrent_gain: Number
) -> PlainCell:
  """Returns the cell without its recurrent product.

  Args:
    hidden_size: width H of carry and output.
    init_w_h: function (key, dtype) -> w_h without the gain.
    recurrent_gain: factor on w_h at initialization.
  """
  checks.integer("hidden_size", hidden_size)
  checks.number("recurrent_gain", recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, h_key = jax.random.split(key)
    return {
      "w_x": _glorot_blocks(x_key, input_size, hidden_size, 3, dtype),
      "w_h": jnp.asarray(recurrent_gain, dtype) * init_w_h(h_key, dtype),
      "b": jnp.zeros(2 * hidden_size, dtype),
    }

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=_project,
    recur=plain_recur,
    update=_update,
    output=the_carry,
    gates=_gates,
    output_is_carry=True,
  )


def _glorot_blocks(
  key: Key[Array, ""], fan_in: int, hidden_size: int, num_blocks: int, dtype: DTypeLike
) -> Float[Array, "{fan_in} {num_blocks}*{hidden_size}"]:
  """Returns blocks [fan_in, H] side by side, each Glorot uniform."""
  draw = jax.nn.initializers.glorot_uniform()
  keys = jax.random.split(key, num_blocks)
  return jnp.concatenate([draw(k, (fan_in, hidden_size), dtype) for k in keys], axis=1)


def _project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> Features:
  b = jnp.pad(params["b"], (0, params["b"].shape[0] // 2))  # the block n has no bias
  return dense_project({"w_x": params["w_x"], "b": b}, xs, key, bias=True)


def _own_recur(params: FlatParams, h: Units) -> Float[Array, "*batch 2*H"]:
  return expand_like(params["w_h"], h) * jnp.concatenate([h, h], axis=-1)


def _update(
  params: FlatParams,
  h: Units,
  drive: Float[CellArray, "*batch 3*H"],
  recurrent: Float[CellArray, "*batch 2*H"],
) -> Units:
  del params
  c, a = _gate_values(drive, recurrent)
  n = jnp.tanh(drive[..., 2 * h.shape[-1] :] + a * h)
  return c * h + (1 - c) * n


def _gate_values(drive: Features, recurrent: Float[CellArray, "*batch V"]) -> tuple[Units, Units]:
  """Returns the update gate c and the feedback a, from the first two of the drive's blocks."""
  c, a = jnp.split(drive[..., : recurrent.shape[-1]] + recurrent, 2, axis=-1)
  return jax.nn.sigmoid(c), 1 + jnp.tanh(a)


def _gates(params: FlatParams, h: Units, drive: Array, recurrent: Array) -> Gates:
  del params, h
  c, a = _gate_values(drive, recurrent)
  return {"update": c, "feedback": a / 2}
