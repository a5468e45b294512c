"""MUT1, MUT2 and MUT3, the best mutations of the GRU that an evolutionary search found."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax.cells.dense import (
  dense_init,
  dense_project,
  expand_like,
  product,
  the_carry,
  zeros,
)
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
  PlainCell,
  RecurFn,
  Units,
  unprepared,
)


@memoized
def mut1(
  hidden_size: int, *, recurrent_kernel: str = "orthogonal", recurrent_gain: Number = 1.0
) -> PlainCell:
  """MUT1: a GRU whose update gate z, the share replaced, reads only the input.

    z = σ(x W_z + b_z)      r = σ(x W_r + h U_r + b_r)
    n = tanh(tanh(x W_n) + (r ∘ h) U_n + b_n)
    h' = (1 − z) ∘ h + z ∘ n

  The paper has tanh(x) in place of tanh(x W_n), which requires an input of width H.

  Step Jacobian: ∂h'/∂h = diag(1 − z) + (diag(r) + U_r diag(h ∘ r ∘ (1 − r))) U_n
  diag(z ∘ (1 − n²)).

  Gradient flow: on each unit's path through itself, every step multiplies the gradient by 1 − z,
  which the input alone sets, as in `mingru`. Unlike there, the gradient also flows through U_r and
  U_n.

  Args:
    hidden_size: width H of carry and output.
    recurrent_kernel: initialization of U_r and U_n: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 2·H], "b": [3·H]} in the order z, r, n, where w_h has no
    block z. Gates: {"update": z, "reset": r}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `recurrent_gain` is not a finite number.
  References:
    Jozefowicz et al., 2015, https://proceedings.mlr.press/v37/jozefowicz15.html
  """
  dense = dense_init(hidden_size, 3, recurrent_kernel, recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = dense(key, input_size, dtype)
    return {**params, "w_h": params["w_h"][:, hidden_size:]}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=_project_1,
    recur=_recur_1,
    update=_update_1,
    output=the_carry,
    gates=_gates_1,
    output_is_carry=True,
  )


@memoized
def mut2(
  hidden_size: int, *, recurrent_kernel: str = "orthogonal", recurrent_gain: Number = 1.0
) -> PlainCell:
  """MUT2: a GRU whose reset gate, in the paper, reads the input without a kernel.

    z = σ(x W_z + h U_z + b_z)      r = σ(x W_r + h U_r + b_r)
    n = tanh(x W_n + (r ∘ h) U_n + b_n)
    h' = (1 − z) ∘ h + z ∘ n

  The paper has x in place of x W_r, which requires an input of width H. With W_r, the cell is `gru`
  with reset="before", except that its gate z is the share that is replaced. With W_r = I, it is the
  paper's cell.

  Step Jacobian: ∂h'/∂h = diag(1 − z) + (diag(r) + U_r diag(h ∘ r ∘ (1 − r))) U_n
  diag(z ∘ (1 − n²)) + U_z diag((n − h) ∘ z ∘ (1 − z)).

  Gradient flow: the same as in `gru`. On each unit's path through itself, every step multiplies the
  gradient by the share that is kept, 1 − z.

  Args:
    hidden_size: width H of carry and output.
    recurrent_kernel: initialization of U_z, U_r and U_n: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 3·H], "b": [3·H]} in the order z, r, n.
    Gates: {"update": z, "reset": r}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `recurrent_gain` is not a finite number.
  References:
    Jozefowicz et al., 2015, https://proceedings.mlr.press/v37/jozefowicz15.html
  """
  return _cell(hidden_size, recurrent_kernel, recurrent_gain, _recur_2)


@memoized
def mut3(
  hidden_size: int, *, recurrent_kernel: str = "orthogonal", recurrent_gain: Number = 1.0
) -> PlainCell:
  """MUT3: a GRU whose update gate z, the share replaced, reads tanh of the carry.

    z = σ(x W_z + tanh(h) U_z + b_z)      r = σ(x W_r + h U_r + b_r)
    n = tanh(x W_n + (r ∘ h) U_n + b_n)
    h' = (1 − z) ∘ h + z ∘ n

  Step Jacobian: ∂h'/∂h = diag(1 − z) + (diag(r) + U_r diag(h ∘ r ∘ (1 − r))) U_n
  diag(z ∘ (1 − n²)) + diag(1 − tanh² h) U_z diag((n − h) ∘ z ∘ (1 − z)).

  Gradient flow: as in `gru`, except that the path through the gate z is attenuated by 1 − tanh² h,
  which is 0.42 at h = ±1, the bounds of the carry.

  Args:
    hidden_size: width H of carry and output.
    recurrent_kernel: initialization of U_z, U_r and U_n: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 3·H], "w_h": [H, 3·H], "b": [3·H]} in the order z, r, n.
    Gates: {"update": z, "reset": r}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `recurrent_gain` is not a finite number.
  References:
    Jozefowicz et al., 2015, https://proceedings.mlr.press/v37/jozefowicz15.html
  """
  return _cell(hidden_size, recurrent_kernel, recurrent_gain, _recur_3)


def _cell(
  hidden_size: int,
  recurrent_kernel: str,
  recurrent_gain: Number,
  recur: RecurFn[FlatParams, Array],
) -> PlainCell:
  """Returns MUT2 or MUT3, which differ in `recur`."""
  return Cell(
    init=dense_init(hidden_size, 3, recurrent_kernel, recurrent_gain),
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=functools.partial(dense_project, bias=True),
    recur=recur,
    update=_update,
    output=the_carry,
    gates=_gates,
    output_is_carry=True,
  )


def _project_1(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> Features:
  """Returns x W_z + b_z, x W_r + b_r, and tanh(x W_n) + b_n."""
  z, r, n = jnp.split(dense_project(params, xs, key), 3, axis=-1)
  a = jnp.concatenate([z, r, jnp.tanh(n)], axis=-1)
  return a + expand_like(params["b"], a)


def _recur_1(params: FlatParams, h: Units) -> Units:
  return product(h, params["w_h"][:, : h.shape[-1]])


def _recur_2(params: FlatParams, h: Units) -> Float[Array, "*batch 2*H"]:
  return product(h, params["w_h"][:, : 2 * h.shape[-1]])


def _recur_3(params: FlatParams, h: Units) -> Float[Array, "*batch 2*H"]:
  u_z, u_r, _ = jnp.split(params["w_h"], 3, axis=1)
  return jnp.concatenate([product(jnp.tanh(h), u_z), product(h, u_r)], axis=-1)


def _update_1(
  params: FlatParams, h: Units, drive: Float[CellArray, "*batch 3*H"], recurrent: Units
) -> Units:
  return _mixed(params, h, drive, *_gate_values_1(drive, recurrent))


def _update(
  params: FlatParams,
  h: Units,
  drive: Float[CellArray, "*batch 3*H"],
  recurrent: Float[CellArray, "*batch 2*H"],
) -> Units:
  return _mixed(params, h, drive, *_gate_values(drive, recurrent))


def _mixed(params: FlatParams, h: Units, drive: Features, z: Units, r: Units) -> Units:
  """Returns (1 − z) ∘ h + z ∘ n."""
  width = h.shape[-1]
  n = jnp.tanh(drive[..., 2 * width :] + product(r * h, params["w_h"][:, -width:]))
  return (1 - z) * h + z * n


def _gate_values_1(drive: Features, recurrent: Units) -> tuple[Units, Units]:
  """Returns z and r of MUT1."""
  z, r, _ = jnp.split(drive, 3, axis=-1)
  return jax.nn.sigmoid(z), jax.nn.sigmoid(r + recurrent)


def _gate_values(drive: Features, recurrent: Float[CellArray, "*batch V"]) -> tuple[Units, Units]:
  """Returns z and r of MUT2 and MUT3."""
  z, r = jnp.split(jax.nn.sigmoid(drive[..., : recurrent.shape[-1]] + recurrent), 2, axis=-1)
  return z, r


def _gates_1(params: FlatParams, h: Units, drive: Array, recurrent: Array) -> Gates:
  del params, h
  z, r = _gate_values_1(drive, recurrent)
  return {"update": z, "reset": r}


def _gates(params: FlatParams, h: Units, drive: Array, recurrent: Array) -> Gates:
  del params, h
  z, r = _gate_values(drive, recurrent)
  return {"update": z, "reset": r}
