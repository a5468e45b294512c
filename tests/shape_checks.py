"""beartype for jaxtyping's import hook, which generates each check once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., object])
_checked: dict[object, Callable[..., object]] = {}


def checked(function: F) -> F:
  """Returns `beartype(function)`, or an earlier one of the same signature.

  jaxtyping passes an empty function that has the signature of the one to check. It does so whenever
  a `def` is executed, so also for each function of each cell that is made: generating these checks
  anew took an eighth of the suite.
  """
  # Two subscripts of a jaxtyping class need not be equal, but print alike.
  key = function.__module__, function.__qualname__, str(inspect.signature(function))
  if key not in _checked:
    _checked[key] = beartype(function)
  return _checked[key]
