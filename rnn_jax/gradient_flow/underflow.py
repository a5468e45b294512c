"""Underflow: the share of each dL/dh_t that is too small for a precision."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from rnn_jax import checks, loss_scaling, precision
from rnn_jax.gradient_flow.layer_sweep import (
  ScalarLoss,
  check_loss,
  forward_layers,
  reverse_layers,
)
from rnn_jax.gradient_flow.reverse_sweep import unscaled
from rnn_jax.time_loop import unroll
from rnn_jax.types import Carry, Cell, Drive, Params, Recurrent, Sequences, floats_of, with_floats


def underflow(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  loss: ScalarLoss,
  *,
  dtype: DTypeLike,
  loss_scale: ArrayLike = 1.0,
) -> tuple[Carry, ...]:
  """Returns the share of the entries of dL/dh_t that a precision loses, at every step and layer.

    share_t = #{b, i : |g_tbi| < tiny and ĝ_tbi ≠ 0} / #{b, i : ĝ_tbi ≠ 0}

  g is the gradient of loss_scale · L, computed in `dtype` by the time loop, as training computes
  it: params, xs, carries and all cotangents are in this precision. tiny is its smallest normal
  number, so that an entry is lost if it is zero or subnormal: 6e-5 in float16, 1e-38 in bfloat16
  and float32. (Whether subnormal numbers are kept or flushed to zero depends on the device. XLA's
  CPU programs flush those of float32 and bfloat16. They count as lost either way, but where they
  are kept, earlier steps receive a little more.) An entry that overflows is not lost in this sense.

  ĝ is computed in float32 with an exponent of its own for each step and example, as in
  `lag_profile`, so it is nonzero wherever the gradient is not zero, however small it is. That is
  why float32, too, loses entries. ĝ = 0 only within an example with other entries 10^38 times as
  large, or where no gradient flows.

  Convention: h_t is the carry after step t; dL/dh_t is the total derivative. Each leaf of the carry
  has its own share. Complex leaves, which have no half precision, stay complex64. Gradients are
  neither truncated nor clipped.

  Cost: two forward and backward passes; memory for T carries per layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: L, `ys -> scalar`, a function of the top cell's outputs [T, B, H] in either precision. To
      be like training, it has to compute the readout in the precision of ys, and the rest in
      float32.
    dtype: `float32`, `bfloat16` or `float16`.
    loss_scale: factor on the loss; a number above 0 or a traced scalar.
  Returns:
    For each layer, shares [T] in the structure of the carry, with None in place of integer leaves;
    NaN at steps where no entry has a gradient.
  Raises:
    TypeError, ValueError: if the dtype is none of these, if the loss scale is not above 0, if the
      loss is not a scalar, or if the arguments do not fit the layers.
  References:
    Micikevicius et al., 2018, https://arxiv.org/abs/1710.03740
  """
  dtype = precision.check_dtype("dtype", dtype)
  checks.number("loss_scale", loss_scale, above=0)
  passes = forward_layers(cells, params, xs)
  ys = passes[-1].ys
  check_loss(loss, ys)
  exact = reverse_layers(cells, passes, unscaled(jax.grad(loss)(ys)))
  params, xs = precision.cast((tuple(params), jnp.asarray(xs)), dtype)

  def scaled_loss(slots: Sequence[Carry]) -> Float[Array, ""]:
    ys = xs
    for cell, cell_params, slot in zip(cells, params, slots, strict=True):
      _, ys = unroll(_with_slots(cell, slot), cell_params, ys)
    return loss_scaling.scaled(loss(ys), jnp.asarray(loss_scale))

  steps, batch_size = ys.shape[:2]

  def zeros(cell: Cell) -> Carry:
    carry = jax.eval_shape(lambda: cell.initial_carry((batch_size,), dtype))
    return jax.tree.map(lambda a: jnp.zeros((steps, *a.shape), a.dtype), floats_of(carry))

  found = jax.grad(scaled_loss)(tuple(map(zeros, cells)))
  return tuple(
    jax.tree.map(_share_lost, layer, reference.value)
    for layer, reference in zip(found, exact, strict=True)
  )


def _with_slots(cell: Cell, slots: Carry) -> Cell:
  """Returns the cell with zeros added to its new carries, whose cotangents are dL/dh_t.

  Args:
    cell: the cell.
    slots: zeros, leaves [T, B, ...], with None in place of integer leaves.
  """

  def project(params: Params, xs: Array, key: Key[Array, ""] | None = None) -> tuple[Drive, Carry]:
    return cell.project(params, xs, key), slots

  def update(
    params: Params, carry: Carry, drive: tuple[Drive, Carry], recurrent: Recurrent
  ) -> Carry:
    own, slot = drive
    new = cell.update(params, carry, own, recurrent)
    return with_floats(jax.tree.map(jnp.add, floats_of(new), slot), new)

  def output(params: Params, carry: Carry, drive: tuple[Drive, Carry]) -> Array:
    return cell.output(params, carry, drive[0])

  return cell._replace(project=project, update=update, output=output, gates=None, linear=None)


def _share_lost(found: Array, exact: Array) -> Float[Array, " T"]:
  """Returns the share of the entries that are not 0 in `exact`, [T, ...], and lost in `found`."""
  tiny = jnp.finfo(found.dtype).tiny
  axes = tuple(range(1, found.ndim))
  has_number = exact != 0
  lost = has_number & (jnp.abs(found) < tiny)
  count = [jnp.sum(where, axis=axes).astype(jnp.float32) for where in (lost, has_number)]
  return count[0] / count[1]
