"""Checks that a result depends only on its arguments, its own step and its own example."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.testing._assertions import require, require_close, require_equal
from rnn_jax.testing._example import Example, in_float64
from rnn_jax.testing._pytrees import paths_and_leaves
from rnn_jax.types import Carry, Params


@in_float64
def check_purity(example: Example) -> None:
  """Checks that two calls return the same values, and that no call changes its arguments."""
  carry, drive, params = example.carry, example.drive, example.given
  before = [(id(leaf), path) for path, leaf in paths_and_leaves((params, carry, drive))]
  first, second = ({"prepare": example.cell.prepare(params)} for _ in range(2))
  for calls in (first, second):
    calls |= example.step_from(calls["prepare"], carry, example.x)
  after = [(id(leaf), path) for path, leaf in paths_and_leaves((params, carry, drive))]
  require(
    before == after,
    "The cell's functions must not change their arguments: after a step, the params, the carry or "
    "the drive held other arrays. Copy a dict before you assign to it.",
  )
  for name in first:
    require_equal(
      f"cell.{name} must be pure, but two calls with the same arguments returned different values. "
      "It may neither read nor change anything besides its arguments.",
      second[name],
      first[name],
    )


@in_float64
def check_time_axis(example: Example) -> None:
  """Checks that `project` gives each step the drive that this step has alone."""
  project, params = example.cell.project, example.params
  steps = [project(params, jnp.asarray(x)) for x in np.asarray(example.xs)]
  require_close(
    "cell.project must treat every leading axis alike: called with all steps [T, B, D] at once, it "
    "returned another drive for a step than called with that step [B, D]. A drive may depend on "
    "its own step alone; what mixes steps belongs in the carry.",
    jax.jit(lambda params, xs: project(params, xs))(params, example.xs),
    jax.tree.map(lambda *leaves: np.stack(leaves), *steps),
  )


@in_float64
def check_batch_axes(example: Example) -> None:
  """Checks that each example of a batch has the step that it has alone, without batch axes."""
  batch_shape = (2, 2)
  carry, x = example.draw_carry(batch_shape), example.draw_xs(batch_shape)

  @jax.jit
  def both(
    params: Params, carry: Carry, x: jax.Array
  ) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    step = functools.partial(example.step_from, params)
    return step(carry, x), jax.vmap(jax.vmap(step))(carry, x)

  together, apart = jax.device_get(both(example.params, carry, x))
  for i in np.ndindex(*batch_shape):
    alone = jax.tree.map(lambda a, i=i: a[i], apart)
    for name in ("project", "recur", "update", "output"):
      require_close(
        f"cell.{name} must compute each example by itself: with batch axes {batch_shape} it "
        f"returned another result for example {i} than with this example alone. Reduce over the "
        "last axis only, and let no result depend on another example or on the position in the "
        "batch.",
        jax.tree.map(lambda a, i=i: a[i], together[name]),
        alone[name],
      )
