"""Dilated recurrence: a cell that reads its carry of several steps ago."""

from __future__ import annotations

from typing import Any, NamedTuple

from rnn_jax import checks
from rnn_jax.cells.elman import elman
from rnn_jax.types import Carry, Cell, Drive, Params


class DilatedCarry(NamedTuple):
  """hidden: the cell's newest carry; earlier: the d − 1 before it, newest first."""

  hidden: Carry
  earlier: tuple[Carry, ...]


def dilated(cell: Cell, dilation: int) -> Cell:
  """A cell that reads its carry of d steps ago, past all those between.

    h_t = f(h_{t−d}, x_t)

  So d sequences are interleaved, each of which has seen every d-th input; the layers below and
  above bring them together. The paper doubles d from layer to layer. The first d steps start from
  zeros.

  Step Jacobian: of the carry (h_t, …, h_{t−d+1}): the cell's own J from h_{t−d} to h_t, and I where
  the others move on. Over k steps a gradient passes J only k/d times: what it loses or gains over d
  steps is what it would in one step of the cell alone.

  The leaves of the carry count as independent of each other. At step t, dL/d hidden is the total
  derivative of h_t: whatever h_t does, it does as the newest one, or goes on from there. And
  dL/d earlier[i] is that share of the derivative of h_{t−1−i} which comes from steps after t.

  Args:
    cell: the cell.
    dilation: d, in steps; 1 is the cell itself.
  Returns:
    A Cell with the params, drive, output and gates of `cell`; its carry is a DilatedCarry.
  Raises:
    TypeError, ValueError: d is no integer of at least 1.
  References:
    Chang et al., 2017, https://arxiv.org/abs/1710.02224
  """
  checks.integer("dilation", dilation)

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> DilatedCarry:
    zeros = cell.initial_carry(batch_shape, dtype)
    return DilatedCarry(zeros, (zeros,) * (dilation - 1))

  def oldest(carry: DilatedCarry) -> Carry:
    return carry.earlier[-1] if carry.earlier else carry.hidden

  def recur(params: Params, carry: DilatedCarry) -> Any:
    return cell.recur(params, oldest(carry))

  def update(params: Params, carry: DilatedCarry, drive: Drive, recurrent: Any) -> DilatedCarry:
    new = cell.update(params, oldest(carry), drive, recurrent)
    return DilatedCarry(new, (carry.hidden, *carry.earlier)[: dilation - 1])

  def output(params: Params, carry: DilatedCarry, drive: Drive) -> Any:
    return cell.output(params, carry.hidden, drive)

  gates = cell.gates
  return cell._replace(
    initial_carry=initial_carry,
    recur=recur,
    update=update,
    output=output,
    gates=gates and (lambda p, carry, drive, recurrent: gates(p, oldest(carry), drive, recurrent)),
    linear=None,
    recurrent_kernel=None,
    output_is_carry=False,
  )


def dilated_elman(
  hidden_size: int,
  *,
  dilation: int = 2,
  activation: str = "tanh",
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Simple recurrent network that reads its output of d steps ago.

    h_t = φ(x_t W_x + h_{t−d} W_h + b)

  Step Jacobian: W_h diag(φ'(a)) once in d steps, else I: see `dilated`.

  Args:
    hidden_size: width H of output and of each of the d carries.
    dilation: d, in steps.
    activation, recurrent_kernel, recurrent_gain: as `elman` has them.
  Returns:
    A Cell: x [..., D], DilatedCarry of d arrays [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: d is no integer of at least 1; or `elman`'s rules.
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
