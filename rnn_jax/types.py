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


class InitFn(Protocol):
  """`(key, input_size, dtype=float) -> params`."""

  def __call__(self, key: Array, input_size: int, dtype: Any = float) -> Params: ...


class InitialCarryFn(Protocol):
  """`(batch_shape, dtype=float) -> carry`, zeros."""

  def __call__(self, batch_shape: tuple[int, ...], dtype: Any = float) -> Carry: ...


class ProjectFn(Protocol):
  """`(params, xs, key=None) -> drive`."""

  def __call__(self, params: Params, xs: Array, key: Array | None = None) -> Drive: ...


def _as_they_are(params: Params) -> Params:
  return params


def _no_gates(params: Params, carry: Carry, drive: Drive, recurrent: Any) -> dict[str, Array]:
  del params, carry, drive, recurrent
  return {}


class Cell(NamedTuple):
  """A recurrent cell h_t = f(h_{t-1}, x_t), split by *when* each part can be computed.

    drive = x_t W_x + b            project: needs no carry, so one product over all time
    recurrent = h_{t-1} W_h        recur:   the product that must wait for the carry
    h_t = φ(drive, recurrent)      update:  elementwise
    y_t = h_t                      output:  reads the new carry, moves nothing

  All functions are pure and accept any leading batch axes. A drive may be any pytree of arrays
  with those leading axes. Stochastic cells draw their masks for all time in `project`, from `key`.
  What is computed of the params alone is computed in `prepare`, once and not in every step: the
  params that the functions after it in this list are given are what it returns.

  Attributes:
    init: `(key, input_size, dtype=float) -> params`.
    initial_carry: `(batch_shape, dtype=float) -> carry`, zeros.
    project: `(params, xs, key=None) -> drive`; xs `[..., D]`, or integer tokens `[...]`, which
      stand for their one-hot vectors.
    recur: `(params, carry) -> recurrent`, linear in the params that it uses.
    update: `(params, carry, drive, recurrent) -> carry`.
    output: `(params, carry, drive) -> y`.
    gates: `(params, carry, drive, recurrent) -> {name: values [..., H]}`, of the step that starts
      from `carry`; {} where the cell has none. Nothing is computed from it: it is for looking at.
    prepare: `(params) -> params`, of those from `init`; as they are by default.
    linear: `(params, drive) -> (a, b)`, like the carry, where update is a ∘ h + b: a recurrence
      that is linear and diagonal, and may run as an associative scan. None where it is not.
  """

  init: InitFn
  initial_carry: InitialCarryFn
  project: ProjectFn
  recur: Callable[[Params, Carry], Any]
  update: Callable[[Params, Carry, Drive, Any], Carry]
  output: Callable[[Params, Carry, Drive], Any]
  gates: Callable[[Params, Carry, Drive, Any], dict[str, Array]] = _no_gates
  prepare: Callable[[Params], Params] = _as_they_are
  linear: LinearFn | None = None


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
