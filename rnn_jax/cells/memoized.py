"""A decorator that makes a cell's constructor return the same cell for equal arguments."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

A = ParamSpec("A")
R = TypeVar("R")


def memoized(constructor: Callable[A, R]) -> Callable[A, R]:
  """Wraps a cell's constructor so that calls with equal arguments return the same cell.

  A jitted function whose static argument is a cell, or a network of cells, is therefore compiled
  only once for equal arguments of the constructor. If an argument is unhashable, such as a traced
  option, each call makes a new cell.
  """
  signature = inspect.signature(constructor)
  # The cache is typed, so that 2.0, which the constructor rejects, does not return the cell of 2.
  remembered = functools.lru_cache(maxsize=None, typed=True)(constructor)

  @functools.wraps(constructor)
  def make(*args: A.args, **kwargs: A.kwargs) -> R:
    # A TypeError means that an argument is unhashable, or is an error that the last line repeats.
    with contextlib.suppress(TypeError):
      # Bring the arguments into one form, because the cache tells f(1) from f(a=1).
      bound = signature.bind(*args, **kwargs)
      bound.apply_defaults()
      for name, value in bound.arguments.items():
        bound.arguments[name] = tuple(value) if isinstance(value, list) else value
      return remembered(*bound.args, **bound.kwargs)
    return constructor(*args, **kwargs)

  return make
