"""What the time loop may be given, and where truncation cuts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array, Cell

REMAT = ("none", "step", "sqrt")
METHODS = ("loop", "associative")


def cuts(
  truncation: int | Array,
  num_steps: int,
  lengths: Array | None,
  resets: Array | None,
  reverse: bool,
) -> Array:
  """[T] or [T, B] bool: steps whose distance from their sequence's start is k, 2k, 3k, …"""
  count = jnp.arange(num_steps, dtype=jnp.int32)
  count = count[::-1] if reverse else count
  if lengths is not None or resets is not None:
    count = count[:, None]
  if reverse and lengths is not None:
    count = count - (num_steps - lengths[None])
  if resets is not None:
    start = jnp.where(resets, count, jnp.zeros_like(count))
    count = count - jax.lax.cummax(start, axis=0, reverse=reverse)
  if isinstance(truncation, int):
    truncation = min(truncation, num_steps)  # a larger one may not fit into int32
  return (count > 0) & (count % jnp.asarray(truncation, jnp.int32) == 0)


def refuse(unknown: Iterable[str]) -> None:
  """Raises a TypeError for the first of the unknown keyword arguments of `unroll`."""
  for name in unknown:
    if name == "unroll":
      raise TypeError("unroll() has no argument 'unroll'; it is called 'scan_unroll'.")
    raise TypeError(f"unroll() has no argument {name!r}.")


def _dtype(a: Any) -> Any:
  """The dtype of an array, traced or not, or of what NumPy makes of a list."""
  return a.dtype if hasattr(a, "dtype") else np.asarray(a).dtype


def check(
  xs: Array,
  truncation: Any,
  lengths: Any,
  resets: Any,
  remat: str,
  scan_unroll: int,
) -> tuple[int, tuple[int, ...]]:
  """Refuses what the loop could not mean; returns T and the batch shape."""
  tokens = jnp.issubdtype(xs.dtype, jnp.integer)
  if xs.ndim != (2 if tokens else 3) or 0 in xs.shape[:2]:
    raise ValueError(
      "xs must be [T, B, D], or integer tokens [T, B], with T and B at least 1, "
      f"got {xs.shape} of {xs.dtype}."
    )
  num_steps, batch_size = xs.shape[:2]
  checks.choice("remat", remat, REMAT)
  checks.integer("scan_unroll", scan_unroll)
  if truncation is not None and not isinstance(truncation, jax.Array):
    checks.integer("truncation", truncation)
  elif truncation is not None:
    if truncation.ndim != 0 or not jnp.issubdtype(truncation.dtype, jnp.integer):
      raise TypeError(
        f"truncation must be an integer scalar, got {truncation.dtype}{list(truncation.shape)}."
      )
    if not isinstance(truncation, jax.core.Tracer):
      checks.integer("truncation", int(truncation))
  if lengths is not None:
    if jnp.shape(lengths) != (batch_size,):
      raise ValueError(f"lengths must be [B] = ({batch_size},), got {jnp.shape(lengths)}.")
    if not jnp.issubdtype(_dtype(lengths), jnp.integer):
      raise TypeError(f"lengths must be integers, got {_dtype(lengths)}.")
    if not isinstance(lengths, jax.core.Tracer):
      values = np.asarray(lengths)
      low, high = values.min(initial=0), values.max(initial=0)
      if low < 0 or high > num_steps:
        raise ValueError(f"lengths must be from 0 to T = {num_steps}, got {low} to {high}.")
  if resets is not None:
    if jnp.shape(resets) != (num_steps, batch_size):
      raise ValueError(
        f"resets must be [T, B] = ({num_steps}, {batch_size}), got {jnp.shape(resets)}."
      )
    if _dtype(resets) != jnp.bool_:
      raise TypeError(f"resets must be bool, got {_dtype(resets)}.")
  return num_steps, (batch_size,)


def check_method(method: str, cell: Cell, remat: str, clip_carry: Any) -> None:
  """Refuses an associative scan of what is not linear, forward or backward."""
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
