"""The reverse sweep through time, right far outside the range of floats: 10^-900, 10^+900."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.powers import exponent_of, power_of_two
from rnn_jax.probes import scaled_norm
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Carry, Cell, Drive, Params, floats_of, step, with_floats

# Stands for the exponent of zero: below any other, so that zero never sets a common scale.
_ZERO_EXPONENT = -(2**30)


class Scaled(NamedTuple):
  """value · 2^exponent, one exponent an example: a quantity that no float may be able to hold.

  Attributes:
    value: pytree of leaves [..., B, H].
    exponent: int32 [..., B].
  """

  value: Any
  exponent: Array


class Pass(NamedTuple):
  """What the forward pass of one layer leaves to be swept through in reverse.

  Attributes:
    params: of the cell, prepared.
    before: h_{t−1}, the carry that each step starts from; leaves [T, B, H].
    drives: of each step.
    ys: outputs [T, B, ...].
    inputs_vjp: cotangent of the drives ↦ (cotangent of xs,).
  """

  params: Params
  before: Carry
  drives: Drive
  ys: Array
  inputs_vjp: Callable[[Drive], tuple[Array]]


def forward_pass(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Pass:
  """Runs one layer over xs [T, B, D], or tokens [T, B]; from a carry of zeros if None."""

  def output(params: Params, carry: Carry, drive: Drive) -> Any:
    return carry, cell.output(params, carry, drive)

  params = cell.prepare(params)
  watched = cell._replace(output=output, prepare=lambda prepared: prepared)
  _, (carries, ys) = unroll(watched, params, xs, carry)
  if carry is None:
    carry = jax.tree.map(lambda a: jnp.zeros_like(a[0]), carries)
  before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), carry, carries)
  drives, inputs_vjp = jax.vjp(lambda xs: cell.project(params, xs), xs)
  return Pass(params, before, drives, ys, inputs_vjp)


def reverse_sweep(
  cell: Cell, run: Pass, y_bars: Scaled, final_bar: Scaled | None = None
) -> tuple[Scaled, Scaled]:
  """dL/dh_t at every step of one layer, rescaled to about 1 at each of them.

    dL/dh_t = ∂L/∂y_t ∂y_t/∂h_t + dL/dh_{t+1} ∂h_{t+1}/∂h_t

  Powers of two are taken out of the cotangent and added up as an integer, each example's own.

  Args:
    cell: of the layer.
    run: its forward pass.
    y_bars: cotangent of the outputs, [T, B, ...].
    final_bar: cotangent of the last carry, leaves [B, H]; zeros if None.
  Returns:
    (dL/dh_t, leaves [T, B, H], None for integers; dL/ddrive_t, leaves [T, B, ...]). h_t leaves
    step t; each leaf of the carry is taken as independent of the others.
  """

  def back(later: Scaled, now: Any) -> tuple[Scaled, tuple[Carry, Drive, Array]]:
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
    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), floats_of(run.before))
    final_bar = Scaled(nothing, jnp.zeros_like(y_bars.exponent[0]))
  # Not `unroll`: this is its reverse sweep, with a rescaling in every step.
  now = (run.before, run.drives, normalize(y_bars))
  _, (totals, drive_bars, exponents) = jax.lax.scan(back, normalize(final_bar), now, reverse=True)
  return Scaled(totals, exponents), Scaled(drive_bars, exponents)


def unscaled(value: Any) -> Scaled:
  """A pytree of leaves [T, B, ...], as a float holds it."""
  leading = jax.tree.leaves(value)[0].shape[:2]
  return Scaled(value, jnp.zeros(leading, jnp.int32))


def log10_norms(scaled: Scaled) -> Any:
  """log₁₀ ‖leaf · 2^exponent‖ of each leaf and example; −inf for zero."""

  def of_leaf(leaf: Array) -> Array:
    norm = scaled_norm(leaf, axis=tuple(range(scaled.exponent.ndim, leaf.ndim)))
    return jnp.log10(norm) + scaled.exponent.astype(norm.dtype) * math.log10(2)

  return jax.tree.map(of_leaf, scaled.value)


def normalize(scaled: Scaled) -> Scaled:
  """The same quantity with its largest entry about 1, each example on its own."""
  ndim = scaled.exponent.ndim
  sizes = [
    jnp.max(jnp.abs(leaf), axis=tuple(range(ndim, leaf.ndim)))
    for leaf in jax.tree.leaves(scaled.value)
  ]
  largest = functools.reduce(jnp.maximum, sizes)
  # One less than the last: 2^-power has to be in the range of normal floats.
  power = jnp.minimum(exponent_of(largest), jnp.finfo(largest.dtype).maxexp - 2)
  shifted = shift(scaled, scaled.exponent + power)
  nothing = jnp.full_like(scaled.exponent, _ZERO_EXPONENT)
  return shifted._replace(exponent=jnp.where(largest == 0, nothing, shifted.exponent))


def shift(scaled: Scaled, exponent: Array) -> Scaled:
  """The same quantity with another exponent; what is too small for it becomes zero."""

  def leaf(a: Array) -> Array:
    factor = power_of_two(scaled.exponent - exponent, a.real.dtype)
    factor = jnp.expand_dims(factor, range(factor.ndim, a.ndim))
    # By parts: a complex product would turn an infinity into NaN.
    return jax.lax.complex(a.real * factor, a.imag * factor) if jnp.iscomplexobj(a) else a * factor

  return Scaled(jax.tree.map(leaf, scaled.value), exponent)
