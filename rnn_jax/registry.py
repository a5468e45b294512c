"""Registers cells, tasks, measures and figures under names."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# Words with a special meaning in flags that take names.
_RESERVED = ("all", "auto", "false", "none", "true")


class Entry(NamedTuple):
  """The function behind a registered name.

  Attributes:
    module: full name of the module that defines the function.
    name: the function's name in that module.
    summary: one-line description.
    function: the function.
  """

  module: str
  name: str
  summary: str
  function: Callable[..., Any]


# {(kind, name): entry} for everything that was registered, without the tables' initial entries.
# The kind is `cell`, `task`, `measure` or `figure`.
REGISTERED: dict[tuple[str, str], Entry] = {}
_counts: dict[str, int] = {}


def register(
  kind: str,
  table: Mapping[str, T],
  name: str,
  value: T,
  function: Callable[..., Any],
  summary: str | None = None,
) -> None:
  """Adds a value to a table under a name.

  A function with the same module and name replaces the earlier one, so that modules can be reloaded
  and notebook cells executed again.

  Args:
    kind: `cell`, `task`, `measure` or `figure`.
    table: the table, a dict.
    name: the name by which flags select the value.
    value: the value.
    function: the function that the user wrote.
    summary: one-line description; by default the first line of the function's docstring.
  Raises:
    TypeError: if `function` is not a function.
    ValueError: if the name is not an identifier, is reserved, or is taken, or if there is neither a
      summary nor a docstring.
  """
  if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
    raise ValueError(
      f"name of a {kind} must be an identifier such as my_{kind}, other than "
      f"{', '.join(_RESERVED)}, got {name!r}."
    )
  if not isinstance(inspect.unwrap(function), types.FunctionType):
    raise TypeError(f"{kind} {name!r} must be a function defined by def, got {function!r:.200}.")
  if summary is None:
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
  if not summary:
    raise ValueError(
      f"{kind} {name!r} must have a docstring, whose first line is its description in tables."
    )
  entry = Entry(function.__module__, function.__qualname__, summary, function)
  owner = REGISTERED.get((kind, name))
  if name in table and (owner is None or owner[:2] != entry[:2]):
    where = "rnn_jax" if owner is None else f"{owner.module}.{owner.name}"
    raise ValueError(f"name of a {kind} must be free, got {name!r}, which is taken by {where}.")
  assert isinstance(table, dict)
  table[name] = value
  REGISTERED[kind, name] = entry
  top = entry.module.partition(".")[0]
  _counts[top] = _counts.get(top, 0) + 1


def count(package: str | None = None) -> int:
  """Returns the number of registrations by a top-level package; by all packages if None."""
  return sum(_counts.values()) if package is None else _counts.get(package, 0)
