"""A type checker for jaxtyping's import hook: beartype, with a cache of the generated checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., object])
_checked: dict[object, Callable[..., object]] = {}


def checked(function: F) -> F:
  """Returns `beartype(function)`, from the cache if the name and the signature are known.

  jaxtyping passes an empty function that has the signature of the function to check. It does so
  whenever a `def` is executed, also for the inner functions of every cell that `make_cell` makes.
  Without the cache, generating checks took an eighth of the suite's time.
  """
  # The key holds the signature as text: two annotations such as Float[Array, "B H"] need not be
  # equal, but they print alike.
  key = function.__module__, function.__qualname__, str(inspect.signature(function))
  if key not in _checked:
    _checked[key] = beartype(function)
  return _checked[key]
