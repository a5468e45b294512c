"""The example that all checks share: a cell with params, a carry and inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.testing._assertions import require
from rnn_jax.testing._python_loop import (
  BATCH_SIZE,
  NUM_STEPS,
  Results,
  StepGradients,
  looped,
  step_gradients,
)
from rnn_jax.testing._pytrees import draw, is_float
from rnn_jax.types import Carry, Cell, Drive, Params, Shape, floats_of, with_floats

_FUNCTIONS = ("init", "initial_carry", "prepare", "project", "recur", "update", "output")


class Example:
  """A cell with params, a carry and inputs of random values in float64, shared by all checks.

  Attributes:
    given: params as `init` returns them, moved by a random amount so that biases are not zero.
    params: the result of `prepare(given)`.
    carry: a random carry, leaves [B, ...].
    xs: random inputs [T, B, D].
  """

  def __init__(self, cell: Cell, input_size: int = 3) -> None:
    """Checks that the arguments are a cell and a size; computes nothing yet."""
    checks.instance("cell", cell, Cell)
    checks.integer("input_size", input_size)
    for name in _FUNCTIONS:
      require(callable(getattr(cell, name)), f"cell.{name} must be a function.")
    self.input_size = input_size
    self.cell = guarded(cell)

  def init(self, dtype: DTypeLike) -> Params:
    """Returns the params of one key, as arrays."""
    return jax.tree.map(as_array, self.cell.init(jax.random.key(0), self.input_size, dtype))

  @functools.cached_property
  def initial(self) -> Params:
    """Returns the params of one key in float64."""
    with jax.enable_x64(True):
      return self.init(jnp.float64)

  @functools.cached_property
  def _first_step(self) -> tuple[Params, Params, dict[str, PyTree]]:
    """Returns the given params, the prepared ones, and the results of an eager step from them."""
    # A large step away from the initial params shows more mistakes, but may lead to params for
    # which the cell is undefined, such as a negative time constant.
    with jax.enable_x64(True):
      for scale in (0.3, 0.01, 0.0):
        given = jax.tree.map(
          lambda a, v, scale=scale: jnp.asarray(np.asarray(a) + scale * v) if is_float(a) else a,
          self.initial,
          jax.device_get(draw(self.initial, 1)),
        )
        prepared = self.cell.prepare(given)
        step = self.step_from(prepared, self.carry, self.x)
        if all(np.all(np.isfinite(a)) for a in jax.tree.leaves(floats_of(step))):
          return given, prepared, step
    raise AssertionError(
      "A step from the params of cell.init, with a carry and inputs drawn from a normal "
      "distribution, returned values that are not finite."
    )

  @property
  def given(self) -> Params:
    """Returns the initial params, moved by a random amount."""
    return self._first_step[0]

  @property
  def params(self) -> Params:
    """Returns the prepared params."""
    return self._first_step[1]

  @functools.cached_property
  def carry(self) -> Carry:
    """Returns a random carry, leaves [B, ...]."""
    return self.draw_carry((BATCH_SIZE,))

  @functools.cached_property
  def xs(self) -> jax.Array:
    """Returns random inputs [T, B, D]."""
    return self.draw_xs((NUM_STEPS, BATCH_SIZE))

  @functools.cached_property
  def x(self) -> jax.Array:
    """Returns the inputs of the first step, [B, D]."""
    with jax.enable_x64(True):
      return jnp.asarray(np.asarray(self.xs)[0])

  @property
  def drive(self) -> Drive:
    """Returns the drive of the first step."""
    return self._first_step[2]["project"]

  @property
  def output(self) -> PyTree:
    """Returns the output of the first step."""
    return self._first_step[2]["output"]

  @property
  def recurrent(self) -> PyTree:
    """Returns the recurrent product of the first step."""
    return self._first_step[2]["recur"]

  @functools.cached_property
  def step_gradients(self) -> StepGradients:
    """Returns the jitted function that computes the gradients of one step."""
    return step_gradients(self.cell)

  @functools.cached_property
  def looped(self) -> Results:
    """Returns the results of a Python loop over the cell's functions."""
    with jax.enable_x64(True):
      return looped(self.cell, self.given, self.carry, self.xs, self.step_gradients)

  def draw_carry(self, batch_shape: Shape) -> Carry:
    """Returns a random carry; its integer leaves are those of the initial carry."""
    with jax.enable_x64(True):
      zeros = jax.tree.map(as_array, self.cell.initial_carry(batch_shape, jnp.float64))
      return with_floats(draw(floats_of(zeros), 2), zeros)

  def draw_xs(self, leading_axes: Shape) -> jax.Array:
    """Returns random inputs [..., D]."""
    with jax.enable_x64(True):
      return draw(jax.ShapeDtypeStruct((*leading_axes, self.input_size), jnp.float64), 3)

  def step_from(self, params: Params, carry: Carry, x: jax.Array) -> dict[str, PyTree]:
    """Returns what each function of the cell returns in one step, by the function's name."""
    drive = self.cell.project(params, x)
    recurrent = self.cell.recur(params, carry)
    new = self.cell.update(params, carry, drive, recurrent)
    y = self.cell.output(params, new, drive)
    return {"project": drive, "recur": recurrent, "update": new, "output": y}


Check = Callable[[Example], str | None]


def in_float64(check: Check) -> Check:
  """Lets a check compute in float64."""

  @functools.wraps(check)
  def checked(example: Example) -> str | None:
    with jax.enable_x64(True):
      return check(example)

  return checked


def guarded(cell: Cell) -> Cell:
  """Returns the cell with functions whose errors are AssertionErrors that name the function."""

  def guard(name: str) -> Any:
    function = getattr(cell, name)

    def call(*args: Any) -> Any:
      try:
        return function(*args)
      except AssertionError:
        raise
      except Exception as error:
        given = ", ".join(checks.shapes(arg) for arg in args)
        hint = " check_cell's argument input_size sets another width of the inputs."
        raise AssertionError(
          f"cell.{name} raised {type(error).__name__} for the arguments ({given}): {error}"
          f"{hint if name == 'init' else ''}"
        ) from error

    return call

  names = [*_FUNCTIONS, *(name for name in ("gates", "linear") if getattr(cell, name) is not None)]
  return cell._replace(**{name: guard(name) for name in names})


def as_array(leaf: Any) -> jax.Array:
  """Returns an array of the params; raises if a leaf is none."""
  require(
    isinstance(leaf, jax.Array | np.ndarray),
    f"cell.init and cell.initial_carry must return pytrees of arrays, but a leaf is {leaf!r:.60}. "
    "Constants of the cell belong in its closure.",
  )
  return jnp.asarray(leaf)
