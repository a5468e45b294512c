"""Requirements on pytrees of arrays, which raise an AssertionError."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.testing._pytrees import (
  are_close,
  are_equal,
  is_float,
  paths_and_leaves,
  precision_of,
  structure,
)
from rnn_jax.types import Params


def require(condition: Any, message: str) -> None:
  if not condition:
    raise AssertionError(message)


def require_precision(params: Params, dtype: DTypeLike) -> None:
  for path, leaf in paths_and_leaves(params):
    require(
      not is_float(leaf) or precision_of(leaf) == dtype,
      f"cell.init must return params of the requested dtype, here {jnp.dtype(dtype)}, but "
      f"params{path} is {checks.shown(leaf)}. Pass the argument `dtype` on to every function that "
      "makes an array.",
    )


def require_like(rule: str, found: PyTree, wanted: PyTree) -> None:
  """Requires two pytrees of arrays to have the same structure, shapes and dtypes."""
  try:
    checks.like("it", wanted, found)
  except ValueError as error:
    raise AssertionError(f"{rule}: {error}") from None


def require_finite(rule: str, tree: PyTree) -> None:
  for path, leaf in paths_and_leaves(tree):
    if is_float(leaf):
      require(np.all(np.isfinite(leaf)), f"{rule}, but {path or 'the result'} is not.")


def require_equal(message: str, found: PyTree, wanted: PyTree) -> None:
  require(structure(found) == structure(wanted), message)
  require(are_equal(found, wanted), message)


def require_close(message: str, found: PyTree, wanted: PyTree, tolerance: float = 1e-9) -> None:
  """Requires two pytrees to be equal to rounding."""
  require(
    structure(found) == structure(wanted),
    f"{message} Their structures differ: {checks.shapes(found)}, {checks.shapes(wanted)}.",
  )
  for (path, a), b in zip(paths_and_leaves(found), jax.tree.leaves(wanted), strict=True):
    at = f" at {path}" if path else ""
    shapes = f"{message} Their shapes{at} differ: {checks.shown(a)}, {checks.shown(b)}."
    require(jnp.shape(a) == jnp.shape(b), shapes)
    if not are_close(a, b, tolerance):
      apart = np.max(np.abs(np.asarray(a) - np.asarray(b)))
      size = np.max(np.abs(b))
      raise AssertionError(
        f"{message} The largest difference{at} is {apart:.3g}, and the largest value is {size:.3g}."
      )
