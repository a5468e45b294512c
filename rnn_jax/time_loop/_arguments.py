"""Checks of the arguments of `unroll`."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from rnn_jax import checks
from rnn_jax.types import Cell, InitFn, Params, Size

REMAT = ("none", "step", "sqrt")
METHODS = ("loop", "associative")


def check_names(unknown: Iterable[str]) -> None:
  """Raises TypeError if there are keyword arguments that `unroll` does not have."""
  for name in unknown:
    if name == "unroll":
      raise TypeError("unroll() has no argument 'unroll'; it is called 'scan_unroll'.")
    raise TypeError(f"unroll() has no argument {name!r}.")


def check_xs(xs: Array) -> tuple[Size, Size]:
  """Returns (T, B); raises unless xs are vectors [T, B, D] or integer tokens [T, B]."""
  tokens = jnp.issubdtype(xs.dtype, jnp.integer)
  if xs.ndim != (2 if tokens else 3) or 0 in xs.shape[:2]:
    raise ValueError(
      "xs must be [T, B, D], or integer tokens [T, B], with T and B at least 1, "
      f"got {xs.shape} of {xs.dtype}."
    )
  if any(jax.typeof(xs).sharding.spec):
    raise ValueError(
      f"xs must not be sharded over mesh axes of type Explicit, got {jax.typeof(xs)}. Use "
      "jax.shard_map, jax.sharding.auto_axes, or a mesh whose axes have the type AxisType.Auto."
    )
  num_steps, batch_size = xs.shape[:2]
  return num_steps, batch_size


def check_symbolic(num_steps: Size, method: str, remat: str) -> None:
  """Raises if T is symbolic, as `jax.export` allows, but `method` or `remat` does not."""
  for name, value, excluded in (("method", method, "associative"), ("remat", remat, "sqrt")):
    if value == excluded and not isinstance(num_steps, int):
      raise ValueError(
        f"{name}={value!r} needs a concrete number of steps, got symbolic T = {num_steps}."
      )


def check_lengths(lengths: Any, num_steps: Size, batch_size: Size) -> None:
  """Raises unless lengths are [B] integers from 0 to T. A tracer's values are not checked."""
  values = _as_array("lengths", "integers [B]", lengths)
  if values.shape != (batch_size,):
    raise ValueError(f"lengths must be [B] = ({batch_size},), got {values.shape}.")
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise TypeError(f"lengths must be integers, got {values.dtype}.")
  if not isinstance(values, jax.core.Tracer):
    values = np.asarray(values)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > num_steps:
      raise ValueError(f"lengths must be from 0 to T = {num_steps}, got {low} to {high}.")


def check_booleans(name: str, value: Any, num_steps: Size, batch_size: Size) -> None:
  """Raises unless the argument `name`, such as `resets`, is a boolean array [T, B]."""
  a = _as_array(name, "booleans [T, B]", value)
  if a.shape != (num_steps, batch_size):
    raise ValueError(f"{name} must be [T, B] = ({num_steps}, {batch_size}), got {a.shape}.")
  if a.dtype != jnp.bool_:
    raise TypeError(f"{name} must be bool, got {a.dtype}.")


def check_factors(name: str, value: Any, num_steps: Size, batch_size: Size) -> None:
  """Raises unless the argument `name`, such as `gradient_scale`, is [T] or [T, B] of floats."""
  a = _as_array(name, "floats [T] or [T, B]", value)
  if a.shape not in ((num_steps,), (num_steps, batch_size)):
    raise ValueError(
      f"{name} must be [T] = ({num_steps},) or [T, B] = ({num_steps}, {batch_size}), got {a.shape}."
    )
  if not jnp.issubdtype(a.dtype, jnp.floating):
    raise TypeError(f"{name} must be floats, got {a.dtype}.")


def check_method(
  method: str, cell: Cell, remat: str, clip_carry: object, gradient_scale: object
) -> None:
  """Raises if `method` is unknown, or if it does not support the cell or the other arguments."""
  checks.choice("method", method, METHODS)
  if method == "loop":
    return
  if cell.linear is None:
    raise ValueError(
      "method 'associative' is for cells that are linear and diagonal in their carry, which have "
      "a `linear` (such as lru and mingru); this cell has none. Choose method 'loop'."
    )
  if remat != "none":
    raise ValueError(f"remat must be 'none' with method 'associative', got {remat!r}.")
  for name, value in (("clip_carry", clip_carry), ("gradient_scale", gradient_scale)):
    if value is not None:
      raise ValueError(f"{name} must be None with method 'associative', got {value!r}.")


def check_params(name: str, cell: Cell, params: Params, xs: Array) -> None:
  """Raises unless the params have the structure and shapes that `cell.init` returns for xs.

  The params may have any float precision. `cell.init` is only traced, and the shapes are cached.
  """
  vectors = xs.ndim == 3 and jnp.issubdtype(xs.dtype, jnp.floating)
  input_size = xs.shape[-1] if vectors else 1
  try:
    wanted = _shapes_of_params(cell.init, input_size)
  except ValueError:  # the cell does not support this input size; `project` will raise
    return
  other = None
  if not _are_like(wanted, params):
    other = _resized(wanted, params, input_size) or input_size_of(cell.init, params)
  if other is None or other == input_size:
    checks.like(name, wanted, params, any_precision=True)
    return
  checks.like(name, _shapes_of_params(cell.init, other), params, any_precision=True)
  if vectors:  # tokens are valid for any input size
    raise ValueError(f"xs must be [T, B, {other}], got {list(xs.shape)}.")


def _resized(wanted: PyTree, params: Params, input_size: int) -> int | None:
  """Returns the size of an axis of the params that has the size `input_size` in `wanted`.

  Returns None if there is no such axis in the first leaf with another shape.
  """
  if _structure(params) != _structure(wanted):
    return None
  for want, have in zip(jax.tree.leaves(wanted), jax.tree.leaves(params), strict=True):
    sizes = [pair for pair in zip(want.shape, jnp.shape(have), strict=False) if pair[0] != pair[1]]
    if want.ndim == jnp.ndim(have) and len(sizes) == 1 and sizes[0][0] == input_size:
      return sizes[0][1]
  return None


def input_size_of(init: InitFn, params: Params) -> int | None:
  """Returns the input size for which a cell's `init` returns params of these shapes.

  `init` is only traced, for the input sizes 1 and 2. The size follows from an axis whose size
  depends on the input size linearly, such as that of a kernel [D + H, 4·H].

  Returns:
    The input size; None if there is none, or if the shapes do not depend on it.
  """
  try:
    one, two = (_shapes_of_params(init, size) for size in (1, 2))
    for a, b, have in zip(*map(jax.tree.leaves, (one, two, params)), strict=True):
      for low, high, size in zip(a.shape, b.shape, jnp.shape(have), strict=False):
        if low != high:
          found = 1 + (size - low) // (high - low)
          fits = found > 0 and _are_like(_shapes_of_params(init, found), params)
          return found if fits else None
  except (TypeError, ValueError):  # another number of leaves, or no cell of such an input size
    pass
  return None


def _are_like(wanted: PyTree, params: Params) -> bool:
  """Returns whether the params have the structure and shapes of `wanted`."""
  return _structure(params) == _structure(wanted) and all(
    want.shape == jnp.shape(have)
    for want, have in zip(jax.tree.leaves(wanted), jax.tree.leaves(params), strict=True)
  )


def _structure(tree: PyTree) -> object:
  return jax.tree.structure(tree)


# Maps each cell's `init` to `{(input size, default dtype): shapes of the params}`. An entry is
# garbage-collected together with its `init`.
_known_shapes: weakref.WeakKeyDictionary[Any, dict[object, PyTree]] = weakref.WeakKeyDictionary()


def _shapes_of_params(init: InitFn, input_size: int) -> PyTree:
  """Returns the shapes and dtypes of the params from `init`.

  Traces `init` only once for each input size and default dtype.
  """
  key = input_size, jax.dtypes.canonicalize_dtype(float)
  try:
    known = _known_shapes.setdefault(init, {})
  except TypeError:  # the `init` of a user's cell may be unhashable
    known = {}
  if key not in known:
    known[key] = jax.eval_shape(lambda: init(jax.random.key(0), input_size))
  return known[key]


def _as_array(name: str, rule: str, a: Any) -> Array | np.ndarray:
  """Returns a JAX array unchanged, and a list or another library's array as a NumPy array.

  NumPy, unlike JAX, keeps integers that do not fit into int32, so that the caller can report them.

  Raises:
    TypeError: if NumPy cannot convert `a`; the message says that `name` must be `rule`.
  """
  if isinstance(a, jax.Array):
    return a
  try:
    return np.asarray(a)
  except (TypeError, ValueError, OverflowError):
    raise TypeError(f"{name} must be {rule}, got {checks.shapes(a):.200}.") from None
