"""Errors that name the argument, the rule, what came, and the choices."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

T = TypeVar("T")


def choice(kind: str, value: object, choices: Iterable[str]) -> str:
  """Returns `value` if it is one of `choices`.

  Raises:
    ValueError: it is not; the message suggests the nearest choice.
  """
  choices = sorted(choices)
  if isinstance(value, str) and value in choices:
    return value
  near = difflib.get_close_matches(str(value), choices, n=1)
  hint = f"; did you mean '{near[0]}'?" if near else "."
  raise ValueError(f"Unknown {kind} '{value}'{hint} Choose one of: {', '.join(choices)}.")


def instance(name: str, value: object, kind: type) -> None:
  """Checks that `value` is a `kind`.

  Raises:
    TypeError: it is not.
  """
  if not isinstance(value, kind):
    raise TypeError(f"{name} must be a {kind.__name__}, got {value!r}.")


def boolean(name: str, value: object) -> bool:
  """Returns `value` if it is True or False.

  Raises:
    TypeError: it is neither.
  """
  if not isinstance(value, bool | np.bool_):
    raise TypeError(f"{name} must be True or False, got {value!r}.")
  return bool(value)


def integer(name: str, value: object, *, minimum: int = 1) -> int:
  """Returns `value` if it is an integer of at least `minimum`.

  Raises:
    TypeError: it is not an integer; booleans and floats such as 2.0 are refused.
    ValueError: it is below the minimum.
  """
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} must be an integer, got {value!r}.")
  if value < minimum:
    raise ValueError(f"{name} must be at least {minimum}, got {value}.")
  return int(value)


def number(name: str, value: T, *, above: float = -math.inf, minimum: float = -math.inf) -> T:
  """Returns `value` if it is a finite number in range; a traced value passes unchecked.

  Raises:
    TypeError: it is not a number.
    ValueError: it is not finite, or out of range.
  """
  if isinstance(value, jax.core.Tracer):
    return value
  if isinstance(value, bool | np.bool_ | str | bytes | bytearray) or getattr(value, "ndim", 0) != 0:
    raise TypeError(f"{name} must be a number, got {value!r}.")
  try:
    # Anything may come in; `float` itself says whether it is a number.
    plain = float(value)  # type: ignore[arg-type]
  except OverflowError:  # an integer larger than any float
    plain = math.inf
  except (TypeError, ValueError):
    raise TypeError(f"{name} must be a number, got {value!r}.") from None
  if not math.isfinite(plain):
    raise ValueError(f"{name} must be finite, got {value}.")
  if plain <= above:
    raise ValueError(f"{name} must be greater than {above:g}, got {value}.")
  if plain < minimum:
    raise ValueError(f"{name} must be at least {minimum:g}, got {value}.")
  return value


def like(name: str, wanted: PyTree, given: PyTree) -> None:
  """Checks that the pytree `given` has the structure, shapes and dtypes of `wanted`.

  Raises:
    ValueError: it differs.
  """
  expected: object = jax.tree.structure(wanted)
  got: object = jax.tree.structure(given)
  if got != expected:
    raise ValueError(f"{name} must have the structure {expected}, got {got}.")
  for want, have in zip(jax.tree.leaves(wanted), jax.tree.leaves(given), strict=True):
    if want.shape != jnp.shape(have) or want.dtype != jnp.result_type(have):
      raise ValueError(
        f"{name} must have leaves of shape {want.shape} and dtype {want.dtype}, "
        f"got {jnp.shape(have)} and {jnp.result_type(have)}."
      )
