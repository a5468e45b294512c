"""The lag profile: how much of the last step's loss is felt k steps earlier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.probes import scaled_norm
from rnn_jax.types import Array, Carry, Cell, Drive, Params, step
from rnn_jax.unroll import unroll

# Stands for the exponent of zero: below any other, so that zero never sets a common scale.
_ZERO_EXPONENT = -(2**30)


class _Scaled(NamedTuple):
  """value · 2^exponent, one exponent an example: a cotangent far outside the float range."""

  value: Any  # leaves [..., B, H]
  exponent: Array  # int32 [..., B]


def lag_profile(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Array,
  loss: Callable[[Array], Array],
) -> tuple[Carry, ...]:
  """Renormalised lag profile log₁₀ ‖∂L_T/∂h_{T−k}‖ of a deep network, k = 0 … T−1.

  L_T is the loss at the last step alone: a loss summed over steps hides vanishing, since each dL/dh
  then holds a term of lag 0. In every layer the cotangent is rescaled to about 1 at each step and
  its power of two is added up as an integer, so the result is right at 10^-900 and at 10^+900.

  Convention: per example, of its own loss; h_{T−k} is the carry that leaves step T−k, and the
  derivative is total: through later steps and through the layers above. Each leaf of the carry has
  its own norm, the others taken as independent of it. No truncation.

  Cost: one forward pass, and one step's vector-Jacobian product a step and layer.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    loss: `y -> [B]`, from the top cell's last output [B, H] to each example's loss.
  Returns:
    For each layer, in the structure of its carry: log₁₀ norms [T, B], first axis the lag; −inf
    where the derivative is exactly zero.
  Raises:
    ValueError: the loss is not one number an example.
  """
  runs = []
  ys = xs
  for cell, cell_params in zip(cells, params, strict=True):
    before, drives, ys, inputs_vjp = _run(cell, cell_params, ys)
    runs.append((before, drives, inputs_vjp))

  shape = jax.eval_shape(loss, ys[-1]).shape
  if shape != ys.shape[1:2]:
    raise ValueError(f"loss must return [B] = {list(ys.shape[1:2])}, got {list(shape)}.")
  y_bar = jax.grad(lambda y: jnp.sum(loss(y)))(ys[-1])
  y_bars = _normalize(
    _Scaled(jnp.zeros_like(ys).at[-1].set(y_bar), jnp.zeros(ys.shape[:2], jnp.int32))
  )
  profile = []
  for i in reversed(range(len(cells))):
    before, drives, inputs_vjp = runs[i]
    logs, drive_bars = _backward(cells[i], params[i], before, drives, y_bars)
    profile.append(jax.tree.map(lambda a: a[::-1], logs))
    if i > 0:
      (x_bars,) = inputs_vjp(drive_bars.value)
      y_bars = _normalize(_Scaled(x_bars, drive_bars.exponent))
  return tuple(reversed(profile))


def _run(
  cell: Cell, params: Params, xs: Array
) -> tuple[Carry, Drive, Array, Callable[[Drive], tuple[Array]]]:
  """Forward pass of one layer: the carry before each step, drives, ys, and ∂drives/∂xs."""

  def output(params: Params, carry: Carry, drive: Drive) -> Any:
    return carry, cell.output(params, carry, drive)

  _, (carries, ys) = unroll(cell._replace(output=output), params, xs)
  drives, inputs_vjp = jax.vjp(lambda xs: cell.project(params, xs), xs)
  before = jax.tree.map(lambda a: jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]]), carries)
  return before, drives, ys, inputs_vjp


def _backward(
  cell: Cell, params: Params, before: Carry, drives: Drive, y_bars: _Scaled
) -> tuple[Carry, _Scaled]:
  """Reverse sweep of one layer: log₁₀ norms [T, B] in order of time, and the drives' cotangents."""

  def back(later: _Scaled, now: Any) -> tuple[_Scaled, Any]:
    before, drive, y_bar = now
    exponent = jnp.maximum(later.exponent, y_bar.exponent)
    later, y_bar = _shift(later, exponent), _shift(y_bar, exponent)

    def forward(before: Carry, drive: Drive, slot: Carry) -> tuple[Carry, Array]:
      carry = jax.tree.map(jnp.add, step(cell, params, before, drive), slot)
      return carry, cell.output(params, carry, drive)

    slot = jax.tree.map(jnp.zeros_like, before)
    _, vjp = jax.vjp(forward, before, drive, slot)
    before_bar, drive_bar, total = vjp((later.value, y_bar.value))
    logs = jax.tree.map(lambda a: _log10_norm(a, exponent), total)
    return _normalize(_Scaled(before_bar, exponent)), (logs, _Scaled(drive_bar, exponent))

  nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), before)
  start = _normalize(_Scaled(nothing, jnp.zeros_like(y_bars.exponent[0])))
  # Not `unroll`: this is its reverse sweep, with a rescaling in every step.
  _, (logs, drive_bars) = jax.lax.scan(back, start, (before, drives, y_bars), reverse=True)
  return logs, drive_bars


def _log10_norm(leaf: Array, exponent: Array) -> Array:
  """log₁₀ ‖leaf · 2^exponent‖ of each example, leaf [B, ...]."""
  norm = scaled_norm(leaf, axis=tuple(range(1, leaf.ndim)))
  return jnp.log10(norm) + exponent.astype(norm.dtype) * math.log10(2)


def _normalize(scaled: _Scaled) -> _Scaled:
  """The same quantity with its largest entry in [½, 1), each example on its own."""
  ndim = scaled.exponent.ndim
  sizes = [
    jnp.max(jnp.abs(leaf), axis=tuple(range(ndim, leaf.ndim)))
    for leaf in jax.tree.leaves(scaled.value)
  ]
  largest = jnp.max(jnp.stack(sizes), axis=0)
  _, power = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, jnp.zeros_like(largest)))
  shifted = _shift(scaled, scaled.exponent + power)
  exponent = jnp.where(
    largest == 0, jnp.full_like(shifted.exponent, _ZERO_EXPONENT), shifted.exponent
  )
  return _Scaled(shifted.value, exponent)


def _shift(scaled: _Scaled, exponent: Array) -> _Scaled:
  """The same quantity with another exponent; what is too small for it becomes zero."""

  def leaf(a: Array) -> Array:
    power = jnp.maximum(scaled.exponent - exponent, -2100)  # 2^-2100 is zero in float64 too
    power = power.reshape(*power.shape, *(1,) * (a.ndim - power.ndim))
    # In two halves, since 2^power alone may lie outside the float range.
    one, half = jnp.ones((), a.real.dtype), power // 2
    return a * jnp.ldexp(one, half) * jnp.ldexp(one, power - half)

  return _Scaled(jax.tree.map(leaf, scaled.value), exponent)
