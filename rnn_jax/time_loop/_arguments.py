"""Checks of the arguments of `unroll`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from rnn_jax import checks
from rnn_jax.types import Cell, Params

REMAT = ("none", "step", "sqrt")
METHODS = ("loop", "associative")


def check_names(unknown: Iterable[str]) -> None:
  """Refuses keyword arguments that `unroll` does not have."""
  for name in unknown:
    if name == "unroll":
      raise TypeError("unroll() has no argument 'unroll'; it is called 'scan_unroll'.")
    raise TypeError(f"unroll() has no argument {name!r}.")


def check_key(key: object) -> None:
  """Refuses a key that is no random key."""
  if isinstance(key, Array):
    new_style = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    # How long a raw key is depends on the generator; jax.random checks that.
    if new_style or (key.dtype == jnp.uint32 and key.ndim == 1):
      return
  raise TypeError(f"key must be a random key, such as jax.random.key(0), got {key!r}.")


def check_xs(xs: Array) -> tuple[int, int]:
  """Returns T and B, if xs are [T, B, D] or tokens [T, B]."""
  tokens = jnp.issubdtype(xs.dtype, jnp.integer)
  if jnp.issubdtype(xs.dtype, jnp.complexfloating):
    raise TypeError(f"xs must be real, or integer tokens, got {xs.dtype}.")
  if xs.ndim != (2 if tokens else 3) or 0 in xs.shape[:2]:
    raise ValueError(
      "xs must be [T, B, D], or integer tokens [T, B], with T and B at least 1, "
      f"got {xs.shape} of {xs.dtype}."
    )
  num_steps, batch_size = xs.shape[:2]
  return num_steps, batch_size


def check_lengths(lengths: Any, num_steps: int, batch_size: int) -> None:
  """Refuses lengths that are not [B] integers from 0 to T; traced values go unchecked."""
  if jnp.shape(lengths) != (batch_size,):
    raise ValueError(f"lengths must be [B] = ({batch_size},), got {jnp.shape(lengths)}.")
  if not jnp.issubdtype(_dtype(lengths), jnp.integer):
    raise TypeError(f"lengths must be integers, got {_dtype(lengths)}.")
  if not isinstance(lengths, jax.core.Tracer):
    values = np.asarray(lengths)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > num_steps:
      raise ValueError(f"lengths must be from 0 to T = {num_steps}, got {low} to {high}.")


def check_resets(resets: Any, num_steps: int, batch_size: int) -> None:
  """Refuses resets that are not [T, B] bool."""
  if jnp.shape(resets) != (num_steps, batch_size):
    raise ValueError(
      f"resets must be [T, B] = ({num_steps}, {batch_size}), got {jnp.shape(resets)}."
    )
  if _dtype(resets) != jnp.bool_:
    raise TypeError(f"resets must be bool, got {_dtype(resets)}.")


def check_method(method: str, cell: Cell, remat: str, clip_carry: object) -> None:
  """Refuses an associative scan of a cell, or with options, that it does not support."""
  checks.choice("method", method, METHODS)
  if method == "loop":
    return
  if cell.linear is None:
    raise ValueError(
      "method 'associative' is for cells that are linear and diagonal in their carry, which have "
      "a `linear` (lru, mingru, minlstm, rg_lru); this cell has none. Choose method 'loop'."
    )
  for name, value, none in (("remat", remat, "none"), ("clip_carry", clip_carry, None)):
    if value != none:
      raise ValueError(f"{name} must be {none!r} with method 'associative', got {value!r}.")


@contextlib.contextmanager
def params_checked_on_error(cell: Cell, params: Params, xs: Array) -> Iterator[None]:
  """If the body fails because the params have wrong shapes, raises an error that says so.

  The shapes are checked on failure only: to trace `cell.init` would slow down every call. A
  ValueError passes, since cells raise it with a message of their own.
  """
  try:
    yield
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    if xs.ndim == 3 and (misfit := _misfit(cell, params, xs.shape[-1])):
      raise ValueError(misfit) from error
    raise


def _misfit(cell: Cell, params: Params, input_size: int) -> str | None:
  """Returns how params differ from those of `cell.init`; None if they do not."""
  wanted: PyTree = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  rule = f"params must fit the cell and xs [T, B, {input_size}]"
  expected: object = jax.tree.structure(wanted)
  got: object = jax.tree.structure(params)
  if got != expected:
    return f"{rule}: their structure must be {expected}, got {got}."
  pairs = zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(params), strict=True)
  for (path, want), have in pairs:
    if want.shape != jnp.shape(have):
      name = jax.tree_util.keystr(path)
      return f"{rule}: params{name} must be {list(want.shape)}, got {list(jnp.shape(have))}."
  return None


def _dtype(a: Any) -> np.dtype:
  """Returns the dtype of an array, or of what NumPy makes of a list."""
  return a.dtype if hasattr(a, "dtype") else np.asarray(a).dtype
