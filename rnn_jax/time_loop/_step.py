"""One step of the time loop: the cell's step, and what the time arguments of `unroll` add to it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from rnn_jax import clipping
from rnn_jax.probes import tap
from rnn_jax.time_loop._adjoint_loops import Perturbations, Step
from rnn_jax.types import Carry, Cell, Drive, Params, floats_of, with_floats


class StepConstants(NamedTuple):
  """What is the same at every step.

  Attributes:
    params: as prepared by the cell.
    clip_carry: largest norm of a cotangent dL/dh_t; None for no clipping.
  """

  params: Params
  clip_carry: Float[Array, ""] | None


class StepInputs(NamedTuple):
  """What a step reads in addition to its carry; with a leading axis T, the inputs of all steps.

  Attributes:
    drive: of the step; or xs, where they are projected block by block.
    valid: from `lengths`, [B]: the sequence has not ended. None for all.
    reset: from `resets`, [B]: a new sequence starts at this step. None for nowhere.
    cut: from `truncation`, [] or [B]: no gradient flows from this step to the previous one. None
      for nowhere.
    probe: leaves [B]. None without a probe, and in `_adjoint.scan`, which takes it separately.
  """

  drive: Drive
  valid: Bool[Array, "*time B"] | None
  reset: Bool[Array, "*time B"] | None
  cut: Bool[Array, " ..."] | None
  probe: Carry | None


def start_of_step(carry: Carry, inputs: StepInputs) -> Carry:
  """Returns the carry that a step starts from: zeros after a reset, without gradient at a cut."""
  if inputs.reset is not None:
    carry = select(inputs.reset, jax.tree.map(jnp.zeros_like, carry), carry)
  if inputs.cut is not None:
    # In the forward pass XLA drops a choice between equals, so that a cut costs nothing there.
    carry = select(inputs.cut, jax.lax.stop_gradient(carry), carry)
  return carry


def make_step(cell: Cell) -> Step:
  """Returns the step of a cell, as `_adjoint.scan` takes it."""

  def step(
    held: StepConstants,
    constants: StepConstants,
    carry: Carry,
    inputs: StepInputs,
    perturbations: Perturbations | None,
  ) -> tuple[Carry, PyTree]:
    start = start_of_step(carry, inputs)
    recurrent = cell.recur(held.params, start)
    if perturbations is not None:
      recurrent = jax.tree.map(jnp.add, recurrent, perturbations.recurrent)
    new = cell.update(constants.params, start, inputs.drive, recurrent)
    # In the backward pass the order is reversed: perturbation and probe get dL/dh_t before it is
    # clipped.
    if constants.clip_carry is not None:
      new = with_floats(clipping.clip_cotangent(floats_of(new), constants.clip_carry), new)
    if perturbations is not None and perturbations.carry is not None:
      new = with_floats(jax.tree.map(jnp.add, floats_of(new), perturbations.carry), new)
    if inputs.probe is not None:
      new = tap(new, inputs.probe)
    y = cell.output(constants.params, new, inputs.drive)
    if inputs.valid is not None:
      new = select(inputs.valid, new, carry)
      y = select(inputs.valid, y, jax.tree.map(jnp.zeros_like, y))
    return new, y

  return step


def outputs_of(cell: Cell, params: Params, carries: Carry, inputs: StepInputs) -> PyTree[Array]:
  """Returns ys, computed from the carries of all steps at once; zero past a sequence's end."""
  ys = cell.output(params, carries, inputs.drive)
  if inputs.valid is None:
    return ys
  return select(inputs.valid, ys, jax.tree.map(jnp.zeros_like, ys))


def select(condition: Bool[Array, " ..."], yes: PyTree, no: PyTree) -> PyTree:
  """Returns `jnp.where` of each leaf; the condition has the leaves' leading axes."""

  def leaf(yes: Shaped[Array, " ..."], no: Shaped[Array, " ..."]) -> Shaped[Array, " ..."]:
    axes = range(condition.ndim, yes.ndim) if condition.ndim else ()
    return jnp.where(jnp.expand_dims(condition, axes), yes, no)

  return jax.tree.map(leaf, yes, no)
