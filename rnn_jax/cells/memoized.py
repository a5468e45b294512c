"""The decorator of the functions that make cells."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

A = ParamSpec("A")
R = TypeVar("R")


def memoized(constructor: Callable[A, R]) -> Callable[A, R]:
  """Returns the constructor, changed so that calls with equal arguments return the same cell.

  A function whose static argument is a cell, alone or in a network, is then compiled once for all
  cells made alike. With an argument that has no hash, such as a traced option, the cell is made
  anew.
  """
  signature = inspect.signature(constructor)
  # Typed, because the cell of 2 must not be returned for 2.0, which the constructor rejects.
  remembered = functools.lru_cache(maxsize=None, typed=True)(constructor)

  @functools.wraps(constructor)
  def make(*args: A.args, **kwargs: A.kwargs) -> R:
    # A TypeError is either that an argument has no hash, or one that the last line raises again.
    with contextlib.suppress(TypeError):
      # All calls pass their arguments in the same way, because the cache tells the ways apart.
      bound = signature.bind(*args, **kwargs)
      bound.apply_defaults()
      for name, value in bound.arguments.items():
        bound.arguments[name] = tuple(value) if isinstance(value, list) else value
      return remembered(*bound.args, **bound.kwargs)
    return constructor(*args, **kwargs)

  return make
