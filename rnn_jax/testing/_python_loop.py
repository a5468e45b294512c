"""A Python loop over a cell's functions, which `unroll` must equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.testing._pytrees import draw
from rnn_jax.types import Carry, Cell, Params, floats_of, with_floats

# T steps and B examples. The second example is padded; it and the first are reset.
LENGTHS = np.array([5, 3, 5])
RESETS = np.zeros((5, 3), bool)
RESETS[[3, 0, 4], [0, 1, 1]] = True  # mid-sequence, at the first step, and past the end
TRUNCATION = 2
NUM_STEPS, BATCH_SIZE = RESETS.shape

Results: TypeAlias = dict[str, PyTree]  # {what it is: value}


class Masks(NamedTuple):
  """Says for each example of a batch, [B], what the time loop does in a step.

  Attributes:
    reset: whether the step starts from a carry of zeros.
    cut: whether no gradient leaves the step backwards, because of the truncation.
    valid: whether the step is part of the sequence, and not padding.
  """

  reset: Any
  cut: Any
  valid: Any


INSIDE = Masks(np.zeros(BATCH_SIZE, bool), np.zeros(BATCH_SIZE, bool), np.ones(BATCH_SIZE, bool))


class Gradients(NamedTuple):
  """Gradients of one step, with None in place of integer leaves.

  Attributes:
    params: gradient of the params, before `prepare`.
    carry: gradient of the old carry.
    new: gradient of the new carry.
    x: gradient of x.
  """

  params: PyTree
  carry: PyTree
  new: PyTree
  x: Any


# `(given, carry, x, masks, bars) -> ((new carry, y), gradients)` for the params `given`. `bars` are
# the cotangents of the new carry and of y. The new carry and y have None for integer leaves, too.
StepGradients: TypeAlias = Callable[..., tuple[PyTree, Gradients]]


def step_gradients(cell: Cell) -> StepGradients:
  """Returns a jitted function that computes a step and its gradients."""

  @jax.jit
  def run(
    given: Params, carry: Carry, x: jax.Array, masks: Masks, bars: PyTree
  ) -> tuple[PyTree, Gradients]:
    def step(params: PyTree, old: PyTree, added: PyTree, x: jax.Array) -> PyTree:
      prepared = cell.prepare(with_floats(params, given))
      return floats_of(_step(cell, prepared, with_floats(old, carry), x, masks, added))

    old = floats_of(carry)
    value, vjp = jax.vjp(step, floats_of(given), old, jax.tree.map(jnp.zeros_like, old), x)
    return value, Gradients(*vjp(bars))

  return run


def looped(
  cell: Cell, given: Params, carry: Carry, xs: jax.Array, gradients_of: StepGradients
) -> Results:
  """Returns values, gradients and gradient norms of a Python loop over the cell's functions.

  The values are those of an eager loop. A second loop, from the last step to the first, computes
  the gradients, each step by `gradients_of`. The norms are those of the gradient of every h_t.
  """
  masks = [Masks(*of_step) for of_step in zip(*_masks(), strict=True)]
  steps = [jnp.asarray(x) for x in np.asarray(xs)]
  prepared = cell.prepare(given)
  carries, ys = [carry], []
  for t in range(NUM_STEPS):
    carry, y = _step(cell, prepared, carry, steps[t], masks[t])
    carries.append(carry)
    ys.append(floats_of(y))
  value = floats_of(carry), jax.tree.map(lambda *leaves: np.stack(leaves), *ys)

  bar, bars = jax.device_get(draw(value, 6))
  found: list[Gradients] = []
  for t in reversed(range(NUM_STEPS)):
    bar_and_y_bar = bar, jax.tree.map(lambda a, t=t: a[t], bars)
    found.append(gradients_of(given, carries[t], steps[t], masks[t], bar_and_y_bar)[1])
    bar = found[-1].carry
  all_steps: Any = jax.tree.map(lambda *leaves: np.stack(leaves), *reversed(found))
  params = jax.tree.map(lambda a: a.sum(0), all_steps.params)
  return results_of(value, (params, bar, all_steps.x), jax.tree.map(_norms, all_steps.new))


def results_of(value: PyTree, gradients: PyTree, norms: PyTree) -> Results:
  """Returns the results of a loop, each with what it is, for messages."""
  (final, ys), (params, carry, xs) = value, gradients
  return {
    "final carry": final,
    "ys": ys,
    "gradient of the params": params,
    "gradient of the initial carry": carry,
    "gradient of xs": xs,
    "probe's norms ‖dL/dh_t‖": norms,
  }


def _step(
  cell: Cell, params: Params, carry: Carry, x: jax.Array, masks: Masks, added: PyTree = None
) -> tuple[Carry, PyTree]:
  """Returns (new carry, y) of one step; `added` is added to the new carry's floats."""
  kept = _select(masks.reset, jax.tree.map(jnp.zeros_like, carry), carry)
  start = _select(masks.cut, jax.lax.stop_gradient(kept), kept)
  drive = cell.project(params, x)
  new = cell.update(params, start, drive, cell.recur(params, start))
  if added is not None:
    new = with_floats(jax.tree.map(jnp.add, floats_of(new), added), new)
  y = cell.output(params, new, drive)
  no_y = jax.tree.map(jnp.zeros_like, y)
  return _select(masks.valid, new, kept), _select(masks.valid, y, no_y)


def _select(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
  """Returns `yes` for each example for which the condition [B] holds, and else `no`."""
  return jax.tree.map(
    lambda a, b: jnp.where(condition.reshape(BATCH_SIZE, *[1] * (b.ndim - 1)), a, b), yes, no
  )


def _masks() -> Masks:
  """Returns the masks of all steps, [T, B]."""
  valid = np.arange(NUM_STEPS)[:, None] < LENGTHS
  resets = RESETS & valid
  counts = np.zeros(BATCH_SIZE, int)  # steps since the sequence began
  cuts = np.zeros_like(resets)
  for t in range(NUM_STEPS):
    counts[resets[t]] = 0
    cuts[t] = valid[t] & (counts > 0) & (counts % TRUNCATION == 0)
    counts += valid[t]
  return Masks(resets, cuts, valid)


def _norms(gradient: np.ndarray) -> np.ndarray:
  """Returns the norms [T, B] of gradients [T, B, ...]."""
  return np.linalg.norm(gradient.reshape(NUM_STEPS, BATCH_SIZE, -1), axis=-1)
