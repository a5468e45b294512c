"""Checks of `init`, `initial_carry`, and the shapes and dtypes of a step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.testing._assertions import (
  require,
  require_equal,
  require_finite,
  require_like,
  require_precision,
)
from rnn_jax.testing._example import Example, in_float64
from rnn_jax.testing._python_loop import BATCH_SIZE
from rnn_jax.testing._pytrees import is_float, paths_and_leaves, precision_of, structure
from rnn_jax.types import Carry, Shape


@in_float64
def check_init(example: Example) -> None:
  """Checks that `init` is a function of its arguments alone, with params of the requested dtype."""
  first = jax.eval_shape(lambda: example.init(jnp.float64))
  for dtype in (jnp.float32, jnp.float64):
    params = jax.eval_shape(lambda dtype=dtype: example.init(dtype))
    require_precision(params, dtype)
    require(
      structure(params) == structure(first)
      and all(
        a.shape == b.shape
        for (_, a), (_, b) in zip(paths_and_leaves(params), paths_and_leaves(first), strict=True)
      ),
      "cell.init must return the same structure and shapes for every dtype, but for "
      f"{jnp.dtype(dtype)} it returned {checks.shapes(params)}, and for float64 "
      f"{checks.shapes(first)}.",
    )
  again = example.init(jnp.float64)
  require_equal(
    "cell.init must depend on its arguments alone, but two calls with one key returned different "
    "params. Draw random numbers from `key` alone.",
    again,
    example.initial,
  )
  require_finite("cell.init must return finite params", example.initial)


@in_float64
def check_initial_carry(example: Example) -> None:
  """Checks that `initial_carry` returns zeros of the requested batch axes and dtype."""
  initial_carry = example.cell.initial_carry
  calls: tuple[tuple[Shape, DTypeLike], ...] = (
    ((), jnp.float32),
    ((), jnp.float64),
    ((BATCH_SIZE,), jnp.float64),
    ((1,), jnp.float64),
    ((2, BATCH_SIZE), jnp.float64),
  )

  @jax.jit
  def carries() -> list[Carry]:
    scalar = initial_carry((), jnp.float64)
    found = [initial_carry(*call) for call in calls]
    for call, carry in zip(calls, found, strict=True):
      _check_initial_carry(call, carry, scalar)
    return found

  for call, carry in zip(calls, carries(), strict=True):
    for path, leaf in paths_and_leaves(carry):
      require(
        not np.any(leaf),
        f"{_initial_carry(call)} must be zeros, but carry{path} is not: unroll sets the carry to "
        "zeros at resets. A learned initial carry is an argument of unroll, `carry`.",
      )


def _check_initial_carry(call: tuple[Shape, DTypeLike], carry: Carry, scalar: Carry) -> None:
  batch_shape, dtype = call
  name = _initial_carry(call)
  require(
    structure(carry) == structure(scalar),
    f"{name} must have the structure {checks.shapes(scalar)} of cell.initial_carry(()), got "
    f"{checks.shapes(carry)}.",
  )
  for (path, leaf), one in zip(paths_and_leaves(carry), jax.tree.leaves(scalar), strict=True):
    found = f"carry{path} is {checks.shown(leaf)}"
    require(hasattr(leaf, "dtype"), f"{name} must hold arrays, but {found}.")
    require(
      leaf.shape == (*batch_shape, *one.shape),
      f"{name} must have leaves [*batch_shape, ...], here {[*batch_shape, *one.shape]}, but "
      f"{found}.",
    )
    require(
      not is_float(leaf) or precision_of(leaf) == dtype,
      f"{name} must have the requested dtype, but {found}. Use the argument `dtype`.",
    )


def _initial_carry(call: tuple[Shape, DTypeLike]) -> str:
  batch_shape, dtype = call
  return f"cell.initial_carry({batch_shape}, {jnp.dtype(dtype)})"


@in_float64
def check_shapes(example: Example) -> None:
  """Checks structures, shapes and dtypes of what the functions of a step return."""
  for dtype in (jnp.float32, jnp.float64):
    _check_shapes(example, dtype, (BATCH_SIZE,))
  for batch_shape in ((), (1,), (2, BATCH_SIZE)):
    _check_shapes(example, jnp.float64, batch_shape)
  _check_shapes(example, jnp.float64, (BATCH_SIZE,), key=True)


def _check_shapes(
  example: Example, dtype: DTypeLike, batch_shape: Shape, key: bool = False
) -> None:
  cell = example.cell
  of = f"for {jnp.dtype(dtype)} inputs with batch axes {batch_shape}" + " and a key" * key

  def check_batch_axes_of(name: str, result: PyTree) -> None:
    for path, leaf in paths_and_leaves(result):
      require(
        leaf.shape[: len(batch_shape)] == batch_shape,
        f"cell.{name} must keep all leading batch axes: {of}, it returned {checks.shown(leaf)}"
        f"{path and f' at {path}'}.",
      )

  def step(key: Any) -> None:
    params = cell.prepare(example.init(dtype))
    carry = cell.initial_carry(batch_shape, dtype)
    xs = jnp.zeros((*batch_shape, example.input_size), dtype)
    drive = cell.project(params, xs, key) if key is not None else cell.project(params, xs)
    check_batch_axes_of("project", drive)
    new = cell.update(params, carry, drive, cell.recur(params, carry))
    require_like(
      f"cell.update must return a carry like the one that it was given: {of}, it got "
      f"{checks.shapes(carry)} and returned {checks.shapes(new)}. An array that the cell creates "
      "must take its dtype from an argument, as in jnp.asarray(c, h.dtype)",
      new,
      carry,
    )
    y = cell.output(params, new, drive)
    check_batch_axes_of("output", y)
    for path, leaf in paths_and_leaves(y):
      require(
        is_float(leaf) and precision_of(leaf) == dtype,
        f"cell.output must keep the dtype: {of}, it returned {checks.shown(leaf)}"
        f"{path and f' at {path}'}.",
      )

  jax.eval_shape(step, jax.random.key(0) if key else None)


@in_float64
def check_bfloat16(example: Example) -> str | None:
  """Checks that params, carry and output are kept in bfloat16, if the cell supports it."""
  dtype = jnp.bfloat16
  try:
    require_precision(jax.eval_shape(lambda: example.init(dtype)), dtype)
    _check_shapes(example, dtype, (BATCH_SIZE,))
  except AssertionError as error:
    if error.__cause__ is not None:
      return f"does not apply: the cell takes no bfloat16 ({error.__cause__!s:.100})"
    raise
  return None
