"""Checks of derivatives: of each function, of tokens, and at zeros."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.testing._assertions import require_close, require_finite
from rnn_jax.testing._example import Example, in_float64
from rnn_jax.testing._python_loop import BATCH_SIZE, INSIDE
from rnn_jax.testing._pytrees import draw, is_float
from rnn_jax.types import floats_of, with_floats


@in_float64
def check_recur(example: Example) -> None:
  """Checks that `recur` is linear in the params.

  The time loop holds the params constant in the reverse sweep, and computes their gradient
  afterwards, as one product.
  """
  params, recur, carry = example.params, example.cell.recur, example.carry
  other = with_floats(draw(floats_of(params), 7), params)

  def combined(a: PyTree, b: PyTree) -> PyTree:
    a, b = jax.device_get((a, b))
    return jax.tree.map(lambda a, b: jnp.asarray(2 * a - b if is_float(a) else a), a, b)

  require_close(
    "cell.recur must be linear in the params that it uses: recur(2p − q) must equal "
    "2 recur(p) − recur(q). Compute what is not linear in the params in cell.prepare, or in "
    "cell.update.",
    recur(combined(params, other), carry),
    combined(example.recurrent, recur(other, carry)),
  )


@in_float64
def check_tokens(example: Example) -> str | None:
  """Checks that integer tokens have the drive and the gradient of their one-hot vectors."""
  cell, params = example.cell, example.params
  tokens = np.arange(BATCH_SIZE) % example.input_size
  one_hot = (tokens[:, None] == np.arange(example.input_size)).astype(np.float64)

  def pulled_back(xs: Any) -> tuple[PyTree, PyTree]:
    drive, vjp = jax.vjp(
      lambda floats: floats_of(cell.project(with_floats(floats, params), xs)), floats_of(params)
    )
    return drive, vjp(draw(drive, 4))

  try:
    jax.eval_shape(lambda: cell.project(params, jnp.asarray(tokens, jnp.int32)))
  except AssertionError as error:
    if isinstance(error.__cause__, TypeError | ValueError):
      return f"does not apply: the cell takes no tokens ({error.__cause__!s:.100})"
    raise
  dtypes = (np.int32, np.uint8)
  expected, *found = jax.jit(lambda *inputs: list(map(pulled_back, inputs)))(
    one_hot, *map(tokens.astype, dtypes)
  )
  for dtype, (drive, bar) in zip(dtypes, found, strict=True):
    rule = (
      f"cell.project accepts integer tokens, here {np.dtype(dtype)}{[BATCH_SIZE]}, which must "
      "stand for their one-hot vectors, but"
    )
    hint = "Raise a TypeError for integers if the cell takes no tokens."
    require_close(f"{rule} the drives differ. {hint}", drive, expected[0])
    require_close(f"{rule} the gradients of the params differ. {hint}", bar, expected[1])
  return None


@in_float64
def check_derivatives(example: Example) -> str | None:
  """Checks the derivatives of each function against finite differences, in both modes."""
  cell, params, carry = example.cell, example.params, example.carry
  x, drive, recurrent = example.x, example.drive, example.recurrent
  calls: dict[str, tuple[Callable[..., PyTree], tuple[PyTree, ...]]] = {
    "prepare": (cell.prepare, (example.given,)),
    "project": (cell.project, (params, x)),
    "recur": (cell.recur, (params, carry)),
    "update": (cell.update, (params, carry, drive, recurrent)),
    "output": (cell.output, (params, carry, drive)),
  }
  floats = {name: tuple(map(floats_of, args)) for name, (_, args) in calls.items()}

  @functools.partial(jax.jit, static_argnums=0)
  def derivatives(
    forward_mode: bool, floats: dict[str, tuple[PyTree, ...]]
  ) -> dict[str, _Derivatives | None]:
    return {
      name: _derivatives(function, args, floats[name], forward_mode)
      for name, (function, args) in calls.items()
    }

  reason = None
  try:
    results = derivatives(True, floats)
  except (AssertionError, TypeError) as error:
    if "custom_vjp" not in str(error):
      raise
    results = derivatives(False, floats)
    reason = "passed in reverse mode alone, because a function has a jax.custom_vjp"
  for name in calls:
    _compare_derivatives(f"cell.{name}", results[name])
  return reason


class _Derivatives(NamedTuple):
  """The derivatives of a function in one random direction.

  Attributes:
    difference: the derivative by finite differences.
    tangent: the derivative in forward mode, or None.
    along: the inner product of a random cotangent with the tangent, or else the difference.
    product: the same number, computed in reverse mode.
  """

  difference: PyTree
  tangent: PyTree | None
  along: jax.Array
  product: jax.Array


def _derivatives(
  function: Callable[..., PyTree],
  args: tuple[PyTree, ...],
  floats: tuple[PyTree, ...],
  forward_mode: bool,
) -> _Derivatives | None:
  """Returns derivatives at `args`, whose floats are `floats`; None if no result is a float."""

  def moved(*floats: PyTree) -> PyTree:
    return floats_of(function(*map(with_floats, floats, args)))

  value, vjp = jax.vjp(moved, *floats)
  if not jax.tree.leaves(value) or not jax.tree.leaves(floats):
    return None
  direction, cotangent = draw(floats, 11), draw(value, 12)
  # The step is so small that it hardly ever moves a pre-activation across the kink of a relu.
  epsilon = 1e-6
  high, low = (
    moved(*jax.tree.map(lambda a, v, s=s: a + s * epsilon * v, floats, direction)) for s in (1, -1)
  )
  difference = jax.tree.map(lambda a, b: (a - b) / (2 * epsilon), high, low)
  tangent = jax.jvp(moved, floats, direction)[1] if forward_mode else None
  along = _inner(cotangent, difference if tangent is None else tangent)
  return _Derivatives(difference, tangent, along, _inner(vjp(cotangent), direction))


def _compare_derivatives(name: str, found: _Derivatives | None) -> None:
  if found is None:
    return
  hint = (
    f"Compare the derivative of {name}, where it is written by hand (jax.custom_jvp, "
    "jax.custom_vjp), with that of the plain function. Functions without a derivative "
    "(jnp.round, stop_gradient) are not allowed in a cell; nor are casts to a lower precision."
  )
  if found.tangent is not None:
    require_close(
      f"{name}: the derivative in forward mode (jax.jvp) is not that of finite differences. {hint}",
      found.tangent,
      found.difference,
      tolerance=1e-6,
    )
  require_close(
    f"{name}: the derivative in reverse mode (jax.vjp) is not that of "
    f"{'finite differences' if found.tangent is None else 'forward mode'}. {hint}",
    found.product,
    found.along,
    tolerance=1e-6 if found.tangent is None else 1e-9,
  )


@in_float64
def check_zeros(example: Example) -> None:
  """Checks that a step from a carry of zeros, with inputs of zeros, has finite gradients.

  Every sequence starts with such a carry, and padded steps have such inputs.
  """
  zeros = example.cell.initial_carry((BATCH_SIZE,), jnp.float64)
  value, gradients = example.step_gradients(
    example.initial,
    zeros,
    jnp.asarray(np.zeros_like(example.x)),
    INSIDE,
    draw(floats_of((zeros, example.output)), 5),
  )
  where = "with the params of cell.init, a carry of zeros and inputs of zeros"
  require_finite(f"A step {where} must be finite", value)
  require_finite(
    f"The gradient of a step {where} must be finite. A square root or a norm of zeros needs a "
    "jnp.where around its argument as well as around its result",
    {"params": gradients.params, "carry": gradients.carry, "x": gradients.x},
  )


def _inner(a: PyTree, b: PyTree) -> jax.Array:
  """Returns Re Σ a b. Nothing is conjugated, because JAX's vjp is the transpose."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return sum((jnp.sum(x * y).real for x, y in pairs), start=jnp.zeros(()))
