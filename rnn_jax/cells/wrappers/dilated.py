"""Dilated recurrence: a cell whose step starts from its carry of several steps ago."""

from __future__ import annotations

from typing import NamedTuple

from jax.typing import DTypeLike
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.cells.elman import elman
from rnn_jax.cells.memoized import memoized
from rnn_jax.types import Array, C, Carry, Cell, D, FlatParams, Number, P, Recurrent, Shape


class DilatedCarry(NamedTuple):
  """The carry of a dilated cell: the wrapped cell's last d carries.

  Attributes:
    hidden: the newest of these carries.
    earlier: the d − 1 carries before it, newest first.
  """

  hidden: Carry
  earlier: tuple[Carry, ...]


@memoized
def dilated(cell: Cell[P, C, D], dilation: int) -> Cell[P, DilatedCarry, D]:
  """Returns a cell whose step t reads the carry of step t − d, but no carry in between.

    h_t = f(h_{t−d}, x_t)

  The result is d interleaved recurrences, each of which sees every d-th input; the layers below and
  above combine them. The paper doubles d from layer to layer. The first d steps start from zeros.

  Step Jacobian of the carry (h_t, …, h_{t−d+1}): the wrapped cell's J from h_{t−d} to h_t, and I
  for the carries that move from one position to the next. Over k steps a gradient is multiplied by
  J only k/d times, so in d steps it changes as much as in one step of the wrapped cell.

  Derivatives treat the leaves of the carry as independent variables:

  - At step t, dL/d hidden is the total derivative dL/dh_t, because every effect of h_t flows
    through `hidden` at step t, either immediately or via `earlier`.
  - At step t, dL/d earlier[i] is the part of dL/dh_{t−1−i} that comes from steps after t.

  Args:
    cell: the cell to wrap.
    dilation: d, in steps. With d = 1 the result's steps are those of `cell`.
  Returns:
    A Cell with the params, drive, output and gates of `cell`; its carry is a DilatedCarry.
  Raises:
    TypeError, ValueError: if `cell` is not a Cell, or `dilation` is not an integer of at least 1.
  References:
    Chang et al., 2017, https://arxiv.org/abs/1710.02224
  """
  checks.instance("cell", cell, Cell)
  checks.integer("dilation", dilation)

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> DilatedCarry:
    zeros = cell.initial_carry(batch_shape, dtype)
    return DilatedCarry(zeros, (zeros,) * (dilation - 1))

  def oldest(carry: DilatedCarry) -> C:
    return carry.earlier[-1] if carry.earlier else carry.hidden

  def recur(params: P, carry: DilatedCarry) -> Recurrent:
    return cell.recur(params, oldest(carry))

  def update(params: P, carry: DilatedCarry, drive: D, recurrent: Recurrent) -> DilatedCarry:
    new = cell.update(params, oldest(carry), drive, recurrent)
    return DilatedCarry(new, (carry.hidden, *carry.earlier)[: dilation - 1])

  def output(params: P, carry: DilatedCarry, drive: D) -> PyTree:
    return cell.output(params, carry.hidden, drive)

  gates = cell.gates
  return Cell(
    init=cell.init,
    initial_carry=initial_carry,
    prepare=cell.prepare,
    project=cell.project,
    recur=recur,
    update=update,
    output=output,
    gates=None if gates is None else (lambda p, h, d, r: gates(p, oldest(h), d, r)),
    # `recurrent_kernel` must name the kernel that multiplies the carry's first leaf. `recur` reads
    # the oldest carry, which is the first leaf only for d = 1.
    recurrent_kernel=cell.recurrent_kernel if dilation == 1 else None,
  )


@memoized
def dilated_elman(
  hidden_size: int,
  *,
  dilation: int = 2,
  activation: str = "tanh",
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, DilatedCarry, Array]:
  """Simple recurrent network that reads its own output from d steps ago.

    h_t = φ(x_t W_x + h_{t−d} W_h + b)

  Step Jacobian: in d steps, a gradient is multiplied once by W_h diag(φ'), and otherwise passes
  unchanged; see `dilated`.

  Args:
    hidden_size: width H of the output and of each of the d carries.
    dilation: d, in steps.
    activation, recurrent_kernel, recurrent_gain: see `elman`.
  Returns:
    A Cell: x [..., D], carry DilatedCarry of d arrays [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `dilation` is not an integer of at least 1, or `elman` rejects another
      argument.
  References:
    Chang et al., 2017, https://arxiv.org/abs/1710.02224
  """
  cell = elman(
    hidden_size,
    activation=activation,
    recurrent_kernel=recurrent_kernel,
    recurrent_gain=recurrent_gain,
  )
  return dilated(cell, dilation)
