"""Registration by name of cells, tasks, and the measures and figures of `experiments`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# Words that have a meaning of their own where the commands expect names.
_RESERVED = ("all", "auto", "false", "none", "true")


class Entry(NamedTuple):
  """The function behind a registered name.

  Attributes:
    module: full name of the module that defines it.
    name: its name in the module.
    summary: what it is, in one line.
    function: the function.
  """

  module: str
  name: str
  summary: str
  function: Callable[..., Any]


# {(kind, name): entry} of all that was registered, in addition to what the tables began with. The
# kind is `cell`, `task`, `measure` or `figure`.
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

  A function of the same module and the same name replaces an earlier one, so that a module can be
  reloaded, and a cell of a notebook executed again.

  Args:
    kind: what is registered: `cell`, `task`, `measure` or `figure`.
    table: the table, a dict.
    name: its name, by which flags select it.
    value: the value.
    function: the function that the user wrote.
    summary: what it is, in one line; if not given, the first line of the function's docstring.
  Raises:
    TypeError: if `function` is not a function.
    ValueError: if the name is not an identifier, is reserved, or is taken, or if there is no
      summary.
  """
  if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
    raise ValueError(
      f"name of a {kind} must be an identifier such as my_{kind}, and none of "
      f"{', '.join(_RESERVED)}, got {name!r}."
    )
  if not isinstance(inspect.unwrap(function), types.FunctionType):
    raise TypeError(f"{kind} {name!r} must be a function, defined by def, got {function!r:.200}.")
  if summary is None:
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
  if not summary:
    raise ValueError(f"{kind} {name!r} must have a docstring, whose first line tables show.")
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
  """Returns how often the modules of a top-level package, or of any, have registered something."""
  return sum(_counts.values()) if package is None else _counts.get(package, 0)
