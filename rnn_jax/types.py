"""The cell: the one abstraction that everything else in this library is built around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Params = Any  # a pytree of arrays, a flat dict for the plain cells
Carry = Any  # an array, or a NamedTuple of arrays
Drive = Any  # an array [..., G·H], or a pytree


LinearFn = Callable[[Params, Drive], tuple[Carry, Carry]]
GatesFn = Callable[[Params, Carry, Drive, Any], dict[str, Array]]


class InitFn(Protocol):
  """`(key, input_size, dtype=float) -> params`."""

  def __call__(self, key: Array, input_size: int, dtype: Any = float) -> Params: ...


class InitialCarryFn(Protocol):
  """`(batch_shape, dtype=float) -> carry`, zeros."""

  def __call__(self, batch_shape: tuple[int, ...], dtype: Any = float) -> Carry: ...


class ProjectFn(Protocol):
  """`(params, xs, key=None) -> drive`."""

  def __call__(self, params: Params, xs: Array, key: Array | None = None) -> Drive: ...


def unprepared(params: Params) -> Params:
  """Returns the params as they are: the `prepare` of a cell that prepares nothing."""
  return params


class Cell(NamedTuple):
  """A recurrent cell h_t = f(h_{t-1}, x_t), split by *when* each part can be computed.

    drive = x_t W_x + b            project: needs no carry, so one product over all time
    recurrent = h_{t-1} W_h        recur:   the product that must wait for the carry
    h_t = φ(drive, recurrent)      update:  elementwise
    y_t = h_t                      output:  reads the new carry, moves nothing

  All functions are pure and accept any leading batch axes. A drive may be any pytree of arrays
  with those leading axes. Stochastic cells draw their masks for all time in `project`, from `key`.
  `prepare` runs once, before the loop, on the params from `init` (e.g. a matrix exponential). Every
  function below it receives the prepared params.

  The last four fields say what a cell can do.

  Attributes:
    init: `(key, input_size, dtype=float) -> params`.
    initial_carry: `(batch_shape, dtype=float) -> carry`, zeros.
    prepare: `(params) -> params`; `unprepared` if there is nothing to prepare.
    project: `(params, xs, key=None) -> drive`; xs `[..., D]`, or integer tokens `[...]`, which
      stand for their one-hot vectors.
    recur: `(params, carry) -> recurrent`, linear in the params that it uses.
    update: `(params, carry, drive, recurrent) -> carry`.
    output: `(params, carry, drive) -> y`.
    gates: `(params, carry, drive, recurrent) -> {name: values [..., H]}` of the step that starts
      from `carry`, for inspection; None for a cell without gates.
    linear: `(params, drive) -> (a, b)`, both like the carry, for a cell whose update is a ∘ h + b:
      a linear and diagonal recurrence may run as an associative scan. None for other cells.
    recurrent_kernel: name of the param W_h, for a cell whose `recur` is h W_h (+ b), where h is the
      first leaf of the carry, `prepare` leaves W_h as it is, and nothing else reads it. None for
      other cells.
    output_is_carry: whether `output` returns the carry itself.
  """

  init: InitFn
  initial_carry: InitialCarryFn
  prepare: Callable[[Params], Params]
  project: ProjectFn
  recur: Callable[[Params, Carry], Any]
  update: Callable[[Params, Carry, Drive, Any], Carry]
  output: Callable[[Params, Carry, Drive], Any]
  gates: GatesFn | None = None
  linear: LinearFn | None = None
  recurrent_kernel: str | None = None
  output_is_carry: bool = False


def step(cell: Cell, params: Params, carry: Carry, drive: Drive) -> Carry:
  """One step in time: h_t = f(h_{t-1}, x_t), with x_t given as its drive, params as prepared."""
  return cell.update(params, carry, drive, cell.recur(params, carry))


def floats_of(carry: Carry) -> Carry:
  """The carry with None in the place of integers: counts of steps have no derivative."""
  return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.inexact) else None, carry)


def with_floats(floats: Carry, carry: Carry) -> Carry:
  """`carry`, with its real and complex leaves replaced by those of `floats_of`."""
  return jax.tree.map(lambda new, a: a if new is None else new, floats, carry, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
  return leaf is None
