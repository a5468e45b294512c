"""A type checker for jaxtyping's import hook: beartype, with a cache of the generated checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., object])
_checked: dict[object, Callable[..., object]] = {}


def checked(function: F) -> F:
  """Returns `beartype(function)`, from a cache if name and signature have occurred before.

  jaxtyping passes an empty function with the signature of the function to check. It does so
  whenever a `def` is executed, so every call of `make_cell` passes all inner functions of a cell.
  Without the cache, generating checks took an eighth of the suite's time.
  """
  # The key holds the signature as text, because two annotations Float[Array, "B H"] may compare
  # unequal although they print alike.
  key = function.__module__, function.__qualname__, str(inspect.signature(function))
  if key not in _checked:
    _checked[key] = beartype(function)
  return _checked[key]
