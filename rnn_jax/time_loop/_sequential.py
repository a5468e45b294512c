"""The sequential time loop for any cell: one loop over all steps, or blocks that save memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rnn_jax.cells.dense import the_carry
from rnn_jax.time_loop import _adjoint
from rnn_jax.time_loop._adjoint_loops import Perturbations, Step
from rnn_jax.time_loop._step import StepConstants, StepInputs, make_step, outputs_of, start_of_step
from rnn_jax.types import Carry, Cell, Recurrent, floats_of, with_floats

# `(constants, carry, inputs) -> (final carry, ys)`: runs consecutive steps.
Segment = Callable[[StepConstants, Carry, StepInputs], tuple[Carry, PyTree]]


class LoopOptions(NamedTuple):
  """The static arguments of `unroll` that a loop depends on.

  Attributes:
    reverse, scan_unroll, remat, forward_mode: see `unroll`.
    project_in_blocks: whether `StepInputs.drive` holds xs, from which each block of steps has to
      compute its own drives.
  """

  reverse: bool
  scan_unroll: int
  remat: str
  forward_mode: bool
  project_in_blocks: bool


def run_sequentially(
  cell: Cell, options: LoopOptions, constants: StepConstants, carry: Carry, inputs: StepInputs
) -> tuple[Carry, PyTree[Array]]:
  """Runs all steps, in blocks if `remat="sqrt"`; returns (final carry, ys)."""
  segment = functools.partial(_run_segment, cell, options)
  if options.remat == "sqrt":
    return _run_blocks(segment, constants, carry, inputs, options.reverse)
  return segment(constants, carry, inputs)


def _run_segment(
  cell: Cell, options: LoopOptions, constants: StepConstants, carry: Carry, inputs: StepInputs
) -> tuple[Carry, PyTree[Array]]:
  if options.project_in_blocks:
    inputs = inputs._replace(drive=cell.project(constants.params, inputs.drive))
  in_loop = cell, constants, inputs
  is_array = len(jax.tree.leaves(carry)) == 1
  if cell.linear is not None and options.remat != "step" and (cell.output_is_carry or is_array):
    in_loop = _linear_form(cell, constants, inputs)
  loop_cell, loop_constants, loop_inputs = in_loop
  if cell.output_is_carry or not is_array:
    return _scan(loop_cell, options, loop_constants, carry, loop_inputs)
  # The carry is a single array, so `output` can be applied to all carries at once, after the loop.
  # A matrix product in `output` is then one product for all steps, and so is its kernel's gradient.
  bare = loop_cell._replace(output=the_carry)
  carry, carries = _scan(bare, options, loop_constants, carry, loop_inputs)
  return carry, outputs_of(cell, constants.params, carries, inputs)


def _linear_form(
  cell: Cell, constants: StepConstants, inputs: StepInputs
) -> tuple[Cell, StepConstants, StepInputs]:
  """Returns a cell, constants and inputs with which the loop computes only a ∘ h + b.

  Here, a and b are computed for all steps, before the loop. Both are in the drive of the returned
  inputs. However, if a is the same at every step, it is in the params of the returned constants.
  """
  assert cell.linear is not None  # checked by the caller
  a, b = cell.linear(constants.params, inputs.drive)
  varies = jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)

  def update(params: Carry, carry: Carry, drive: PyTree, recurrent: Recurrent) -> Carry:
    del recurrent
    a, b = drive if varies else (params, drive)
    return jax.tree.map(lambda a, h, b: a * h + b, a, carry, b)

  params = () if varies else jax.tree.map(lambda a: a[0], a)
  return (
    cell._replace(recur=lambda params, carry: (), update=update),
    constants._replace(params=params),
    inputs._replace(drive=(a, b) if varies else b),
  )


def _scan(
  cell: Cell, options: LoopOptions, constants: StepConstants, carry: Carry, inputs: StepInputs
) -> tuple[Carry, PyTree[Array]]:
  step = make_step(cell)
  if options.remat == "step":
    step = jax.checkpoint(step, prevent_cse=False)
  # mypy knows this attribute only from jax 0.12 on; `jax.config.values` ignores `disable_jit()`.
  if options.forward_mode or jax.config.jax_disable_jit:  # type: ignore[attr-defined, unused-ignore]
    # Use a plain scan. `_adjoint.scan` has no forward-mode derivative, and its plan, made from a
    # traced step, does not fit a step that is executed operation by operation.
    return jax.lax.scan(
      lambda carry, inputs: step(constants, constants, carry, inputs, None),
      carry,
      inputs,
      reverse=options.reverse,
      unroll=options.scan_unroll,
    )
  if len(jax.tree.leaves(floats_of(carry))) < len(jax.tree.leaves(carry)):
    return _scan_with_integers(cell, step, options, constants, carry, inputs)
  return _adjoint.scan(
    step,
    start_of_step,
    _recurrent_product(cell),
    constants,
    carry,
    inputs._replace(probe=None),
    inputs.probe,
    reverse=options.reverse,
    unroll=options.scan_unroll,
  )


def _scan_with_integers(
  cell: Cell,
  step: Step,
  options: LoopOptions,
  constants: StepConstants,
  carry: Carry,
  inputs: StepInputs,
) -> tuple[Carry, PyTree[Array]]:
  """Runs `_adjoint.scan` for a carry with integer leaves, such as a step counter.

  Integers have no cotangent. A first loop computes them for all steps. A second loop, which carries
  only the real and complex leaves, reads the integers as inputs.
  """
  probe, inputs = inputs.probe, inputs._replace(probe=None)

  def integers_step(carry: Carry, inputs: StepInputs) -> tuple[Carry, Carry]:
    new, _ = step(constants, constants, carry, inputs, None)
    return new, jax.tree.map(lambda a: None if jnp.issubdtype(a.dtype, jnp.inexact) else a, carry)

  # The integers need this separate loop, since `_adjoint.scan` supports only real and complex
  # carries. The loop's real and complex values are unused, so XLA removes their computation.
  still = jax.lax.stop_gradient((carry, inputs))
  last, integers = jax.lax.scan(
    integers_step, *still, reverse=options.reverse, unroll=options.scan_unroll
  )

  def start(floats: Carry, inputs: tuple[StepInputs, Carry]) -> Carry:
    return start_of_step(with_floats(floats, inputs[1]), inputs[0])

  def floats_step(
    held: StepConstants,
    constants: StepConstants,
    floats: Carry,
    inputs: tuple[StepInputs, Carry],
    perturbations: Perturbations | None,
  ) -> tuple[Carry, PyTree]:
    carry = with_floats(floats, inputs[1])
    new, y = step(held, constants, carry, inputs[0], perturbations)
    return floats_of(new), y

  floats, ys = _adjoint.scan(
    floats_step,
    start,
    _recurrent_product(cell),
    constants,
    floats_of(carry),
    (inputs, integers),
    probe,
    reverse=options.reverse,
    unroll=options.scan_unroll,
  )
  return with_floats(floats, last), ys


def _recurrent_product(cell: Cell) -> Callable[[StepConstants, Carry], PyTree]:
  return lambda constants, carry: cell.recur(constants.params, carry)


def _run_blocks(
  segment: Segment, constants: StepConstants, carry: Carry, inputs: StepInputs, reverse: bool
) -> tuple[Carry, PyTree[Array]]:
  """Runs blocks of √T steps, which the backward pass recomputes; the last block may be shorter."""
  num_steps = jax.tree.leaves(inputs)[0].shape[0]
  block = math.isqrt(num_steps - 1) + 1
  whole = num_steps - num_steps % block
  recomputed = jax.checkpoint(segment, prevent_cse=False)

  def blocks(carry: Carry) -> tuple[Carry, PyTree]:
    folded = jax.tree.map(lambda a: a[:whole].reshape(-1, block, *a.shape[1:]), inputs)
    # This scan runs over blocks of steps; within a block, `segment` runs the steps.
    run = functools.partial(recomputed, constants)
    carry, ys = jax.lax.scan(run, carry, folded, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)

  def rest(carry: Carry) -> tuple[Carry, PyTree]:
    return recomputed(constants, carry, jax.tree.map(lambda a: a[whole:], inputs))

  if whole == num_steps:
    return blocks(carry)
  if reverse:
    carry, late = rest(carry)
    carry, early = blocks(carry)
  else:
    carry, early = blocks(carry)
    carry, late = rest(carry)
  return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)
