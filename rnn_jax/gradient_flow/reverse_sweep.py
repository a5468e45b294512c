"""Forward and reverse sweeps of one layer, with cotangents from 10^-900 to 10^+900 and beyond.

A name that ends in `_bar` is a cotangent: the derivative of the loss with respect to that quantity.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Int, Key, PyTree

from rnn_jax.powers import exponent_of, power_of_two
from rnn_jax.probes import scaled_norm
from rnn_jax.time_loop import unroll
from rnn_jax.types import Carry, Cell, Drive, Params, floats_of, step, unprepared, with_floats

# The exponent of a value of zero. It is below every other exponent, because two values are added at
# the larger of their exponents, and a zero must never determine that exponent.
_ZERO_EXPONENT = -(2**30)


class Scaled(NamedTuple):
  """The quantity value · 2^exponent, which may lie outside the float range.

  Attributes:
    value: pytree of leaves [..., B, H].
    exponent: int32 [..., B], one per example.
  """

  value: PyTree[Array]
  exponent: Int[Array, "*batch"]


class Pass(NamedTuple):
  """The part of one layer's forward pass that a reverse sweep needs.

  Attributes:
    params: the cell's prepared params.
    before: h_{t−1}, the carry from which step t starts, for every t; leaves [T, B, H].
    drives: each step's drive, the input's part of the pre-activation; leaves [T, B, ...].
    ys: outputs [T, B, ...].
    inputs_vjp: maps a cotangent of the drives to (cotangent of xs,).
  """

  params: Params
  before: Carry
  drives: Drive
  ys: Inexact[Array, "T B *H"]
  inputs_vjp: Callable[[Drive], tuple[Array]]


def with_carry_output(cell: Cell) -> Cell:
  """Returns the cell with output (carry, y) instead of y, so that `unroll` returns all carries."""

  def output(params: Params, carry: Carry, drive: Drive) -> tuple[Carry, Array]:
    return carry, cell.output(params, carry, drive)

  return cell._replace(output=output, output_is_carry=False)


def _prepared(cell: Cell) -> Cell:
  """Returns the cell with `prepare` as the identity, for params that are already prepared."""

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> Params:
    return cell.prepare(cell.init(key, input_size, dtype))

  return cell._replace(init=init, prepare=unprepared)


def forward_pass(
  cell: Cell,
  params: Params,
  xs: Float[Array, "T B D"] | Int[Array, "T B"],
  carry: Carry | None = None,
) -> Pass:
  """Runs one layer over xs and keeps the carries and drives of all steps.

  Args:
    cell: the layer's cell.
    params: the cell's params.
    xs: the layer's inputs: [T, B, D], or tokens [T, B].
    carry: the initial carry, leaves [B, ...]; zeros if None.
  Returns:
    The layer's Pass.
  """
  params = cell.prepare(params)
  watched = with_carry_output(_prepared(cell))
  _, (carries, ys) = unroll(watched, params, xs, carry)
  if carry is None:
    carry = jax.tree.map(lambda a: jnp.zeros_like(a[0]), carries)
  before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), carry, carries)
  drives, inputs_vjp = jax.vjp(lambda xs: cell.project(params, xs), xs)
  return Pass(params, before, drives, ys, inputs_vjp)


def reverse_sweep(
  cell: Cell, run: Pass, y_bars: Scaled, final_bar: Scaled | None = None
) -> tuple[Scaled, Scaled]:
  """Returns dL/dh_t and dL/ddrive_t at every step of one layer.

    dL/dh_t = ∂L/∂y_t ∂y_t/∂h_t + dL/dh_{t+1} ∂h_{t+1}/∂h_t

  Each step rescales each example's cotangent to about 1 and adds the removed power of two to an
  integer exponent, so nothing underflows or overflows.

  Convention: h_t is the carry after step t. The derivative with respect to one leaf of h_t holds
  the other leaves of h_t constant.

  Cost: one single-step vector-Jacobian product for every step.

  Args:
    cell: the layer's cell.
    run: the layer's forward pass.
    y_bars: cotangent of the outputs, [T, B, ...].
    final_bar: cotangent of the final carry, leaves [B, H]; zeros if None.
  Returns:
    (dL/dh_t, leaves [T, B, H], with None in place of integer leaves; dL/ddrive_t, leaves
    [T, B, ...]).
  """
  Step = tuple[Carry, Drive, Scaled]

  def back(later: Scaled, now: Step) -> tuple[Scaled, tuple[Carry, Drive, Int[Array, " B"]]]:
    before, drive, y_bar = now
    exponent = jnp.maximum(later.exponent, y_bar.exponent)
    later, y_bar = shift(later, exponent), shift(y_bar, exponent)

    def forward(floats: Carry, drive: Drive, slot: Carry) -> tuple[Carry, Array]:
      carry = step(cell, run.params, with_floats(floats, before), drive)
      new = jax.tree.map(jnp.add, floats_of(carry), slot)
      return new, cell.output(run.params, with_floats(new, carry), drive)

    floats = floats_of(before)
    _, vjp = jax.vjp(forward, floats, drive, jax.tree.map(jnp.zeros_like, floats))
    before_bar, drive_bar, total = vjp((later.value, y_bar.value))
    return normalize(Scaled(before_bar, exponent)), (total, drive_bar, exponent)

  if final_bar is None:
    zeros = jax.tree.map(lambda a: jnp.zeros_like(a[0]), floats_of(run.before))
    final_bar = Scaled(zeros, jnp.zeros_like(y_bars.exponent[0]))
  # A plain scan, because differentiating `unroll` would not rescale the cotangent at every step.
  now = (run.before, run.drives, normalize(y_bars))
  _, (totals, drive_bars, exponents) = jax.lax.scan(back, normalize(final_bar), now, reverse=True)
  return Scaled(totals, exponents), Scaled(drive_bars, exponents)


def unscaled(value: PyTree[Array]) -> Scaled:
  """Wraps a pytree of leaves [T, B, ...] as a `Scaled` whose exponents are zero."""
  leading = jax.tree.leaves(value)[0].shape[:2]
  return Scaled(value, jnp.zeros(leading, jnp.int32))


def log10_norms(scaled: Scaled) -> PyTree[Array]:
  """Returns log₁₀ ‖leaf · 2^exponent‖ for each leaf and example; −inf for zeros."""

  def leaf_norm(leaf: Array) -> Array:
    norm = scaled_norm(leaf, axis=tuple(range(scaled.exponent.ndim, leaf.ndim)))
    return jnp.log10(norm) + scaled.exponent.astype(norm.dtype) * math.log10(2)

  return jax.tree.map(leaf_norm, scaled.value)


def normalize(scaled: Scaled) -> Scaled:
  """Changes the exponents so that each example's largest entry of `value` is about 1.

  The quantity value · 2^exponent stays the same.
  """
  ndim = scaled.exponent.ndim
  sizes = [
    jnp.max(jnp.abs(leaf), axis=tuple(range(ndim, leaf.ndim)))
    for leaf in jax.tree.leaves(scaled.value)
  ]
  largest = functools.reduce(jnp.maximum, sizes)
  # The power is capped, because 2^-power must be a normal float, too.
  power = jnp.minimum(exponent_of(largest), jnp.finfo(largest.dtype).maxexp - 2)
  shifted = shift(scaled, scaled.exponent + power)
  exponent_of_zero = jnp.full_like(scaled.exponent, _ZERO_EXPONENT)
  return shifted._replace(exponent=jnp.where(largest == 0, exponent_of_zero, shifted.exponent))


def shift(scaled: Scaled, exponent: Int[Array, "*batch"]) -> Scaled:
  """Rescales `value` so that the same quantity, value · 2^exponent, has the given exponent.

  Entries that would be too small for a float become zero.
  """

  def leaf(a: Array) -> Array:
    factor = power_of_two(scaled.exponent - exponent, a.real.dtype)
    factor = jnp.expand_dims(factor, range(factor.ndim, a.ndim))
    # Scale real and imaginary parts separately, because a complex product turns inf into NaN.
    return jax.lax.complex(a.real * factor, a.imag * factor) if jnp.iscomplexobj(a) else a * factor

  return Scaled(jax.tree.map(leaf, scaled.value), exponent)
