"""One step of the time loop: the cell's step, with masks, resets, cuts, scales, clips and probe."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Integer, PyTree, Shaped

from rnn_jax import clipping
from rnn_jax.probes import tap
from rnn_jax.time_loop._adjoint_loops import Perturbations, Step
from rnn_jax.types import AnyArray, Carry, Cell, Drive, Params, Size, floats_of, with_floats


class StepConstants(NamedTuple):
  """The values that are the same at every step.

  Attributes:
    params: the cell's prepared params.
    clip_carry: the norm to which each cotangent dL/dh_t is clipped; None for no clipping.
  """

  params: Params
  clip_carry: Float[Array, ""] | None


class StepInputs(NamedTuple):
  """The inputs of one step apart from the carry. With a leading axis T, the inputs of all steps.

  Attributes:
    drive: the input's part of the pre-activation; or x itself, if drives are computed block by
      block.
    valid: from `lengths` and `mask`, [B]: whether the step runs rather than being skipped. None if
      every step runs.
    reset: from `resets`, [B]: whether a new sequence starts at this step. None if none does.
    cut: from `truncation`, [] or [B]: whether the gradient from this step to the previous one is
      cut. None if it is never cut.
    probe: zeros, leaves [B], whose cotangent is ‖dL/dh_t‖. None without a probe, and in
      `_adjoint.scan`, which takes the probe as a separate argument.
    scale: from `gradient_scale`, [] or [B]: factor on the gradient from this step to the previous
      one. None for 1.
    recurrent_scale: from `recurrent_gradient_scale`, [] or [B]: factor on the part of that gradient
      that flows through `cell.recur`. None for 1.
  """

  drive: Drive
  valid: Bool[Array, "*time B"] | None
  reset: Bool[Array, "*time B"] | None
  cut: Bool[Array, " ..."] | None
  probe: Carry | None
  scale: Float[Array, " ..."] | None = None
  recurrent_scale: Float[Array, " ..."] | None = None


def start_of_step(carry: Carry, inputs: StepInputs) -> Carry:
  """Returns the carry that a step starts from: zeros at a reset, a constant (no gradient) at a cut.

  Otherwise it is the carry that the previous step returned. (The scales do not change its value.)
  """
  return _cut(_reset(carry, inputs), inputs)


def _reset(carry: Carry, inputs: StepInputs) -> Carry:
  if inputs.reset is None:
    return carry
  return select(inputs.reset, jax.tree.map(jnp.zeros_like, carry), carry)


def _cut(carry: Carry, inputs: StepInputs) -> Carry:
  if inputs.cut is None:
    return carry
  # In the forward pass both branches are the same array, so XLA removes the select and a cut costs
  # nothing.
  return select(inputs.cut, jax.lax.stop_gradient(carry), carry)


def scale_gradient(carry: Carry, factor: Float[Array, " ..."] | None) -> Carry:
  """Returns the carry unchanged; in the backward pass, its cotangent is multiplied by the factor.

  Args:
    carry: leaves [B, ...].
    factor: [] or [B]; None for 1.
  """
  if factor is None:
    return carry
  return with_floats(jax.tree.map(lambda a: _scaled(a, factor), floats_of(carry)), carry)


@jax.custom_jvp
def _scaled(leaf: Inexact[Array, " ..."], factor: Float[Array, " ..."]) -> Inexact[Array, " ..."]:
  del factor
  return leaf


@_scaled.defjvp
def _scaled_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
  (leaf, factor), (leaf_dot, _) = primals, tangents
  axes = range(factor.ndim, leaf.ndim) if factor.ndim else ()
  return leaf, jnp.expand_dims(factor.astype(leaf.dtype), axes) * leaf_dot


def make_step(cell: Cell) -> Step:
  """Returns the cell's step in the form that `_adjoint.scan` requires."""

  def step(
    held: StepConstants,
    constants: StepConstants,
    carry: Carry,
    inputs: StepInputs,
    perturbations: Perturbations | None,
  ) -> tuple[Carry, PyTree]:
    # A skipped step returns `kept`: a reset applies to it, but a cut does not.
    kept = _reset(carry, inputs)
    start = scale_gradient(_cut(kept, inputs), inputs.scale)
    recurrent = cell.recur(held.params, scale_gradient(start, inputs.recurrent_scale))
    if perturbations is not None:
      recurrent = jax.tree.map(jnp.add, recurrent, perturbations.recurrent)
    new = cell.update(constants.params, start, inputs.drive, recurrent)
    # The backward pass runs these lines in reverse order, so the perturbation and the probe receive
    # dL/dh_t before it is clipped.
    if constants.clip_carry is not None:
      new = with_floats(clipping.clip_cotangent(floats_of(new), constants.clip_carry), new)
    if perturbations is not None and perturbations.carry is not None:
      new = with_floats(jax.tree.map(jnp.add, floats_of(new), perturbations.carry), new)
    if inputs.probe is not None:
      new = tap(new, inputs.probe)
    y = cell.output(constants.params, new, inputs.drive)
    if inputs.valid is not None:
      new = select(inputs.valid, new, kept)
      y = select(inputs.valid, y, jax.tree.map(jnp.zeros_like, y))
    return new, y

  return step


def outputs_of(cell: Cell, params: Params, carries: Carry, inputs: StepInputs) -> PyTree[Array]:
  """Returns ys, computed from the carries of all steps at once; zero at skipped steps."""
  ys = cell.output(params, carries, inputs.drive)
  if inputs.valid is None:
    return ys
  return select(inputs.valid, ys, jax.tree.map(jnp.zeros_like, ys))


def valid_steps(
  num_steps: Size, lengths: Integer[AnyArray, " B"] | None, mask: Bool[AnyArray, "T B"] | None
) -> Bool[Array, "T B"] | None:
  """Returns a mask of the steps that run: those before their sequence's end where `mask` is True.

  Returns None if every step runs, because `lengths` and `mask` are both None.
  """
  valid = None if mask is None else jnp.asarray(mask)
  if lengths is None:
    return valid
  steps = jnp.arange(num_steps, dtype=jnp.int32)
  within = steps[:, None] < jnp.asarray(lengths, jnp.int32)[None]
  return within if valid is None else within & valid


def select(condition: Bool[Array, " ..."], yes: PyTree, no: PyTree) -> PyTree:
  """Applies `jnp.where` to each leaf; the condition's axes are the leading axes of the leaves."""

  def leaf(yes: Shaped[Array, " ..."], no: Shaped[Array, " ..."]) -> Shaped[Array, " ..."]:
    axes = range(condition.ndim, yes.ndim) if condition.ndim else ()
    return jnp.where(jnp.expand_dims(condition, axes), yes, no)

  return jax.tree.map(leaf, yes, no)
