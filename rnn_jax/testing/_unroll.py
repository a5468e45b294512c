"""Checks that `unroll` equals a Python loop, step by step and as an associative scan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.probes import gradient_probe
from rnn_jax.testing._assertions import require, require_close, require_like
from rnn_jax.testing._example import Example, in_float64
from rnn_jax.testing._python_loop import (
  BATCH_SIZE,
  LENGTHS,
  NUM_STEPS,
  RESETS,
  TRUNCATION,
  Results,
  results_of,
)
from rnn_jax.testing._pytrees import draw
from rnn_jax.time_loop import unroll
from rnn_jax.types import floats_of, with_floats


@in_float64
def check_unroll(example: Example) -> None:
  """Checks that a jitted `unroll` equals a Python loop, in values, gradients and gradient norms.

  The loop's values are computed eagerly. Its gradients come from one jitted step.
  """
  xs = jax.ShapeDtypeStruct((1, 1, example.input_size), jnp.float64)  # one step of one example
  jax.eval_shape(lambda given, xs: unroll(example.cell, given, xs), example.given, xs)
  _compare_with_loop("unroll under jax.jit", _unrolled(example), example.looped)


def _unrolled(example: Example, **options: Any) -> Results:
  """Returns values, gradients and gradient norms of `unroll`, from one jitted program."""
  probe = gradient_probe(example.cell, NUM_STEPS, BATCH_SIZE, jnp.float64)

  @jax.jit
  def run(args: tuple[PyTree, ...], probe: PyTree) -> Results:
    def values(args: tuple[PyTree, ...], probe: PyTree) -> PyTree:
      params, floats, xs = args
      final, ys = unroll(
        example.cell,
        with_floats(params, example.given),
        xs,
        with_floats(floats, example.carry),
        lengths=LENGTHS,
        resets=RESETS,
        truncation=TRUNCATION,
        probe=probe,
        **options,
      )
      return floats_of(final), floats_of(ys)

    value, vjp = jax.vjp(values, args, probe)
    gradients, norms = vjp(draw(value, 6))
    return results_of(value, gradients, norms)

  padded = np.arange(NUM_STEPS)[:, None, None] >= LENGTHS[None, :, None]
  xs = jnp.asarray(np.where(padded, np.nan, example.xs))
  return run((floats_of(example.given), floats_of(example.carry), xs), probe)


def _compare_with_loop(name: str, found: Results, wanted: Results) -> None:
  for what, value in wanted.items():
    require_close(
      f"{name} must equal an eager Python loop over project, recur, update and output, but its "
      f"{what} differs. A function of the cell computes something else when it is traced, or when "
      "it is called with all steps, or keeps values from one call to the next.",
      found[what],
      value,
    )


@in_float64
def check_linear(example: Example) -> str | None:
  """Checks that the update is a ∘ h + b, with (a, b) from `linear`, in a step and in a scan."""
  cell = example.cell
  if cell.linear is None:
    return "does not apply: cell.linear is None"
  pair = cell.linear(example.params, example.drive)
  require(
    isinstance(pair, tuple) and len(pair) == 2,
    f"cell.linear must return a pair (a, b), got {checks.shapes(pair)}.",
  )
  a, b = pair
  require_like("cell.linear must return (a, b) with b like the carry", b, example.carry)
  try:
    # The batch axes of a may have size 1.
    a = jax.tree.map(lambda a, h: jnp.broadcast_to(a, h.shape), a, example.carry)
  except ValueError as error:
    raise AssertionError(
      f"cell.linear must return (a, b) with a like the carry {checks.shapes(example.carry)}, or "
      f"with batch axes of size 1, got {checks.shapes(a)}."
    ) from error
  require_like("cell.linear must return (a, b) with a like the carry", a, example.carry)
  require_close(
    "cell.update must be a ∘ h + b if the field `linear` of the cell is set, where (a, b) = "
    "cell.linear(params, drive). Set `linear` to None if the cell is not linear in its carry.",
    cell.update(example.params, example.carry, example.drive, example.recurrent),
    jax.tree.map(lambda a, h, b: a * h + b, a, example.carry, b),
  )
  _compare_with_loop(
    'unroll(..., method="associative"), which calls cell.linear once for all steps,',
    _unrolled(example, method="associative"),
    example.looped,
  )
  return None
