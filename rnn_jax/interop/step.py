"""Makes a `Cell` of any step function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Key, PyTree

from rnn_jax import checks
from rnn_jax.cells.dense import the_carry
from rnn_jax.interop.traced_step import TracedStep, first_success
from rnn_jax.time_loop import input_size_of
from rnn_jax.types import Carry, Cell, Features, Inputs, Params, Shape, Units, unprepared

# The user's functions. Each receives a single example: x [D], and a carry without batch axes.
StepOfOne: TypeAlias = Callable[[Params, Carry, Array], Any]  # -> carry, or (carry, y)
OutputOfOne: TypeAlias = Callable[[Params, Carry, Array], Array]  # -> y
ParamsOf: TypeAlias = Callable[[Key[Array, ""], int], Params]  # (key, input_size) -> params


class CarryAndOutput(NamedTuple):
  """The carry of a cell whose output y_t cannot be computed from h_t, x_t and the params alone.

  Attributes:
    carry: the carry of the user's step, h_t.
    y: the output [..., W].
  """

  carry: Carry
  y: Array


def cell_from_step(
  step: StepOfOne,
  init: ParamsOf,
  initial_carry: Carry,
  output: OutputOfOne | None = None,
  *,
  input_size: int | None = None,
) -> Cell:
  """Returns a Cell that runs `step`, a pure function of params, carry and input.

      def step(params, h, x):
        h = jnp.tanh(x @ params["in"] + h @ params["recurrent"])
        return h, h @ params["out"]

      cell = cell_from_step(step, init, jnp.zeros(64))
      params = cell.init(key, input_size)
      carry, ys = unroll(cell, params, xs)      # every argument of unroll, every measure

  `step` is written for one example. The time loop maps it over the batch with `jax.vmap`, so one
  example cannot affect another. It may compute anything, but it must keep no state outside the
  carry and draw no random numbers. Arrays that it closes over are constants: only params are
  differentiated. The whole step runs inside the time loop. To compute the input product of all
  steps at once, write a `Cell` instead.

  If possible, y is not stored in the carry but computed from the new one. This requires that y is a
  leaf of the new carry, or that it depends on the old carry only through the new one, as
  y = h @ params["out"] does. The cell's carry is then the carry of `step`.

  Otherwise, e.g. if the old carry gates y, the cell's carry is `CarryAndOutput(carry, y)`, and
  measures treat y_t as a part of h_t. Step Jacobians then have W more rows and columns, where
  ∂h_t/∂y_{t−1} is zero; W Lyapunov exponents are −inf; and dL/dh_t of the other leaves excludes the
  path through y_t, which belongs to dL/dy_t.

  The cell declares no `gates`, `linear` or `recurrent_kernel`. Add them with `cell._replace`; these
  functions receive x [..., D] as the drive.

  Args:
    step: `(params, carry, x) -> carry` or `(params, carry, x) -> (carry, y)`, for x [D] and y [W].
      The carry that it returns must match the one it receives in structure, shapes and dtypes.
    init: `(key, input_size) -> params`. Params may be any pytree. The cell casts float and complex
      leaves to the dtype passed to `cell.init`. Integer leaves are constants.
    initial_carry: the carry of one example before the first step. It may be any pytree of zeros,
      such as `jnp.zeros(hidden_size)`. Float and complex leaves take the precision of xs. To start
      from another carry, pass it to `unroll` as `carry`.
    output: `(params, carry, x) -> y [W]`, which receives the new carry. It replaces the y that
      `step` returns. Required if `step` returns no y and its carry has several leaves.
    input_size: D, if `step` accepts only this size of x; by default it accepts any.
  Returns:
    A Cell: x [..., D], carry with leaves [..., *shape of the leaf], y [..., W]. Integer tokens are
    read as one-hot vectors.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, if `initial_carry` is not zeros, if
      `step` changes the structure, a shape or a dtype of the carry, or if y is not an array of
      floats [W]. `cell.init` checks the step again, for the given input size and dtype.
  """
  for name, function in (("step", step), ("init", init)):
    checks.function(name, function)
  if output is not None:
    checks.function("output", output)
  if input_size is not None:
    checks.integer("input_size", input_size)
  only_size = input_size
  first = _shapes(initial_carry)
  run = functools.partial(_run, step, output)

  def draw(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> Params:
    return jax.tree.map(lambda a: _cast(a, dtype), init(key, input_size))

  def trace(input_size: int, dtype: DTypeLike = float) -> TracedStep:
    params = jax.eval_shape(lambda: draw(jax.random.key(0), input_size, dtype))
    carry = jax.eval_shape(lambda: _zeros(first, (), dtype))
    x = jax.ShapeDtypeStruct((input_size,), jax.dtypes.canonicalize_dtype(dtype))
    return TracedStep.of(run, params, carry, x)

  # How y depends on the carry is the same for all inputs, so any that the step accepts will do.
  sizes = [1, *(size for a in jax.tree.leaves(first) for size in a.shape)]
  sizes = sizes if only_size is None else [only_size]
  example = first_success(trace, sizes)
  y_is_carried = not example.y_is_readable

  def checked_init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> Params:
    checks.key("key", key)
    checks.integer("input_size", input_size)
    checks.float_dtype("dtype", dtype)
    if only_size not in (None, input_size):
      raise ValueError(
        f"input_size must be {only_size}, the one that this cell accepts, got {input_size}."
      )
    y = trace(input_size, dtype).y
    if y_is_carried and y.shape != example.y.shape:
      raise ValueError(
        "step must return a y whose size does not depend on that of x, because this y is stored in "
        f"the carry, got {list(example.y.shape)} and {list(y.shape)}. Alternatively, pass output=."
      )
    return draw(key, input_size, dtype)

  def zeros(batch_shape: Shape, dtype: DTypeLike = float) -> Carry:
    carry = _zeros(first, batch_shape, dtype)
    return CarryAndOutput(carry, _zeros(example.y, batch_shape, dtype)) if y_is_carried else carry

  def project(params: Params, xs: Inputs, key: Key[Array, ""] | None = None) -> Features:
    del key
    given, xs = xs, checks.array("xs", xs, "floats", "integers")
    if not jnp.issubdtype(xs.dtype, jnp.integer):
      return xs
    size = only_size or input_size_of(checked_init, params)
    if size is None:
      raise ValueError(
        "xs must be vectors [..., D], because the number of tokens cannot be inferred from the "
        f"shapes of these params, got tokens {checks.shown(xs)}."
      )
    checks.tokens("xs", given, size)
    floats = [a for a in jax.tree.leaves(params) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jax.nn.one_hot(xs, size, dtype=jnp.finfo(floats[0].dtype).dtype if floats else float)

  def recur(params: Params, carry: Carry) -> tuple[()]:
    del params, carry
    return ()

  def update(params: Params, carry: Carry, drive: Features, recurrent: tuple[()]) -> Carry:
    del recurrent

    def advance(params: Params, carry: Carry, x: Array) -> Carry:
      new, y = run(params, carry.carry if y_is_carried else carry, x)
      return CarryAndOutput(new, y) if y_is_carried else new

    return _over_batch(advance, params, carry, drive)

  def read(params: Params, carry: Carry, drive: Features) -> Units:
    def read_one(params: Params, carry: Carry, x: Array) -> Array:
      return TracedStep.of(run, params, carry, x).read_y(params, carry, x)

    return carry.y if y_is_carried else _over_batch(read_one, params, carry, drive)

  return Cell(
    init=checked_init,
    initial_carry=zeros,
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=the_carry if example.y_is_carry else read,
    output_is_carry=example.y_is_carry,
  )


def _over_batch(
  function: Callable[..., PyTree], params: Params, carry: Carry, x: Features
) -> PyTree:
  """Runs `function(params, carry, x)` on each example separately; x has the batch axes."""
  for _ in range(x.ndim - 1):
    function = jax.vmap(function, in_axes=(None, 0, 0))
  return function(params, jax.tree.map(jnp.asarray, carry), jnp.asarray(x))


def _run(
  step: StepOfOne, output: OutputOfOne | None, params: Params, carry: Carry, x: Array
) -> tuple[Carry, Array]:
  """Returns (new carry, y) of one step.

  Raises:
    TypeError, ValueError: if the new carry is not like `carry`, or y is not an array of floats [W].
  """
  result = step(params, carry, x)
  wanted, found = _structure(carry), _structure(result)
  if found == wanted:
    new, y = result, None
  elif isinstance(result, tuple) and len(result) == 2 and _structure(result[0]) == wanted:
    new, y = result
  else:
    raise TypeError(
      "step must return a carry with the structure of the one that it receives, or (carry, y), got "
      f"{checks.shapes(result)} for the carry {checks.shapes(carry)}."
    )
  new = jax.tree.map(_as_array, new)
  checks.like(f"the carry that step returns for x {checks.shown(x)}", carry, new)
  if output is not None:
    y = output(params, new, x)
  elif y is None:
    leaves = jax.tree.leaves(new)
    if len(leaves) != 1:
      raise TypeError(
        "output must be given if step returns no y and its carry is not a single array, got the "
        f"carry {checks.shapes(carry)}."
      )
    y = leaves[0]
  if _structure(y) != _structure(0.0) or not hasattr(y, "dtype"):
    raise TypeError(f"y must be one array, got {checks.shapes(y)}.")
  if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.floating):
    raise ValueError(f"y must be floats [W] for one example, got {checks.shown(y)}.")
  return new, y


def _shapes(initial_carry: Carry) -> Carry:
  """Returns shape and dtype of each leaf of a carry of zeros."""

  def leaf(path: tuple[Any, ...], a: Any) -> jax.ShapeDtypeStruct:
    name = f"initial_carry{jax.tree_util.keystr(path)}"
    if not isinstance(a, jax.ShapeDtypeStruct | jax.core.Tracer):
      a = np.asarray(a)
    if not (jnp.issubdtype(a.dtype, jnp.number) or a.dtype == np.bool_):
      raise TypeError(f"{name} must be an array of numbers, got {checks.shown(a)}.")
    if isinstance(a, np.ndarray) and np.any(a):
      raise ValueError(
        f"{name} must be zeros, got {checks.shown(a)} with other values. To start from another "
        "carry, pass it to `unroll` as `carry`."
      )
    return jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype))

  return jax.tree_util.tree_map_with_path(leaf, initial_carry)


def _zeros(shapes: Carry, batch_shape: Shape, dtype: DTypeLike) -> Carry:
  """Returns zeros with leaves [*batch_shape, ...]; the precision of floats is that of `dtype`."""
  return jax.tree.map(
    lambda a: jnp.zeros((*batch_shape, *a.shape), _with_precision(a.dtype, dtype)), shapes
  )


def _cast(a: Any, dtype: DTypeLike) -> Array:
  """Returns a leaf of the params as an array; the precision of floats is that of `dtype`."""
  a = _as_array(a)
  return a.astype(_with_precision(a.dtype, dtype))


def _with_precision(kind: np.dtype, dtype: DTypeLike) -> np.dtype:
  """Returns `dtype` if `kind` is real, its complex counterpart if complex, and else `kind`."""
  if jnp.issubdtype(kind, jnp.floating):
    return jax.dtypes.canonicalize_dtype(dtype)
  if jnp.issubdtype(kind, jnp.complexfloating):
    return np.result_type(jax.dtypes.canonicalize_dtype(dtype), np.complex64)
  return kind


def _as_array(a: Any) -> Array:
  return a if isinstance(a, jax.Array) else jnp.asarray(a)


def _structure(tree: PyTree) -> object:
  return jax.tree.structure(tree)
