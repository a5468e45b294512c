"""The flag `--import`: the user's modules, which register cells, tasks, measures and figures.

They are imported before the other flags are parsed, so that these accept the registered names. Only
the command line, and the flagfiles that it names, can cause an import. The contents of an output
folder or a replay file never do, except in the workers of a sweep.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from experiments.cli import flag_table, help_pages
from experiments.cli.flag_table import Flag
from experiments.runtime import backend, exits
from rnn_jax import registry
from rnn_jax.cells import cell_options

# A script or notebook that calls `experiments.run_sweep`.
_SCRIPT = "__main__"


class NotImportedError(ValueError):
  """Raised if a record needs a module that has not been imported."""


def _parse(text: str) -> tuple[str, ...]:
  if text == "none":
    return ()
  names = tuple(name.strip() for name in text.split(","))
  for name in names:
    if not is_module(name):
      raise ValueError(
        f"import must name Python modules, such as mylab or mylab.cells, got '{text}'."
      )
    if name.endswith(".py"):
      hint = f"pass the module's name, --import={name.removesuffix('.py')}"
      raise ValueError(f"import must name Python modules, got the file '{name}'; {hint}.")
  return names


def is_module(name: object) -> bool:
  """Returns whether `name` is text that could name a Python module."""
  return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


TABLE = flag_table.grouped(
  "Plugins",
  (
    Flag(
      "import",
      "none",
      _parse,
      "Python modules to import first, as a comma list. They register your own cells, tasks, "
      "measures and figures, whose names the other flags then accept. They must be in the current "
      "folder, on PYTHONPATH, or installed. Repeatable.",
      "repeated",
    ),
  ),
)


# For errors about unknown names of what the modules can register.
IMPORT_HINT = "If it is your own, its module must be imported first (--import)."


def names_of(values: Iterable[Sequence[str]] | None) -> list[str]:
  """Returns the modules in the values of `--import`, without duplicates."""
  return list(dict.fromkeys(name for names in values or () for name in names))


def given() -> list[str]:
  """Returns the modules that `--import` names."""
  return names_of(flags.FLAGS["import"].value)


def import_from(arguments: Sequence[str]) -> None:
  """Imports the modules that `--import` names on a command line.

  Args:
    arguments: the command line, without flagfiles. Its other flags are not parsed.
  Raises:
    ValueError, flags.Error: if `--import` is invalid, or if a module cannot be imported or
      registers nothing; the message names the module.
  """
  own = flags.FlagValues()
  row = TABLE[0]
  flags.DEFINE_multi_string(row.name, None, row.help, flag_values=own)
  own(["", *arguments], known_only=True)
  for name in names_of(map(_parse_or_fail, own[row.name].value or ())):
    _import(name)


def _parse_or_fail(text: str) -> tuple[str, ...]:
  try:
    return _parse(text)
  except ValueError as error:
    raise ValueError(f"--{error}") from None


def _import(name: str) -> None:
  if name == _SCRIPT:
    raise ValueError(
      f"--import must not be {_SCRIPT}, which stands for the script or notebook that trained the "
      "sweep. Move its registered functions to a module, or run the script again."
    )
  before = registry.count()
  with _pinned(name):
    try:
      importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
      absent = error.name if isinstance(error, ModuleNotFoundError) else None
      if absent is not None and f"{name}.".startswith(f"{absent}."):
        raise ValueError(
          "--import must name modules that are in the current folder, on PYTHONPATH, or installed, "
          f"got '{name}', which was not found."
        ) from None
      raise ValueError(f"--import={name}: {describe(error, name)}") from None
  package = name.partition(".")[0]
  if registry.count() == before and not registry.count(package):
    raise ValueError(
      f"--import must name modules that register a cell, task, measure or figure, got '{name}', "
      "which registers none."
    )


@contextlib.contextmanager
def _pinned(name: str) -> Iterator[None]:
  """Restores the JAX settings that a module changes while it is imported, with a warning."""
  before = {setting: getattr(jax.config, setting) for setting in backend.PINNED}
  yield
  for setting, value in before.items():
    changed = getattr(jax.config, setting)
    if changed != value:
      exits.warn(f"{name} set {setting} to {changed}; this command resets it to {value}.")
      jax.config.update(setting, value)


def describe(error: BaseException, package: str | None = None) -> str:
  """Returns an exception as one line, with the line of the user's code that raised it.

  Args:
    error: the exception.
    package: a module of the user's package; None for every package that registered something.
  """
  text = f"{type(error).__name__}: {error}".removesuffix(": ")
  if isinstance(error, SyntaxError):  # its text names the file without its folder
    return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
  place = _place(error, package)
  return f"{text} ({place})" if place else text


def _place(error: BaseException, package: str | None = None) -> str:
  """Returns the innermost line of the user's code in a traceback; "" if there is none."""
  tops = {entry.module for entry in registry.REGISTERED.values()} if package is None else {package}
  tops = {name.partition(".")[0] for name in tops}
  places = [
    f"{frame.f_code.co_filename}, line {line}"
    for frame, line in traceback.walk_tb(error.__traceback__)
    if str(frame.f_globals.get("__name__")).partition(".")[0] in tops
  ]
  return places[-1] if places else ""


def message(error: BaseException) -> str:
  """Returns an error's message; for a TypeError from the user's code, also its line."""
  is_mistake = isinstance(error, TypeError) and is_users(error)
  return describe(error) if is_mistake else str(error)


def is_users(error: BaseException) -> bool:
  """Returns whether an exception came from or through code that registered something."""
  return bool(_place(error))


def missing(about: Mapping[str, Any]) -> list[str]:
  """Returns the modules in a record's entry `import` that are not imported."""
  names = about.get("import") or []
  names = [name for name in names if is_module(name)] if isinstance(names, list) else []
  scripts = {entry.module for entry in registry.REGISTERED.values()}
  return [n for n in names if n not in sys.modules or (n == _SCRIPT and n not in scripts)]


def check_imported(what: str, about: Mapping[str, Any]) -> None:
  """Checks that the modules in a record's entry `import` are imported.

  Args:
    what: what needs them, for the message.
    about: the record.
  Raises:
    NotImportedError: if a module is not imported.
  """
  names = missing(about)
  if names:
    raise NotImportedError(
      f"{what} needs a cell, task or measure from {', '.join(names)}, which is not imported; pass "
      f"--import={','.join(names)}, or in Python: import {', '.join(names)}."
    )


def used(cells: Iterable[str], tasks: Iterable[str], measures: Iterable[str]) -> list[str]:
  """Returns the modules that registered any of these cells, tasks and measures, sorted."""
  keys = [("cell", name) for name in cells]
  keys += [("task", name) for name in tasks]
  keys += [("measure", name) for name in measures]
  found = registry.REGISTERED
  return sorted({found[key].module for key in keys if key in found})


def search_path() -> list[str]:
  """Returns the folders in which this process finds modules that are not installed."""
  kinds = ("stdlib", "platstdlib", "purelib", "platlib")
  installed = tuple(os.path.join(sysconfig.get_path(kind), "") for kind in kinds)
  paths = [os.path.abspath(path) for path in sys.path]
  return [p for p in paths if os.path.isdir(p) and not os.path.join(p, "").startswith(installed)]


def help_groups() -> dict[str, list[help_pages.Row]]:
  """Returns a help-page group of everything registered; {} if nothing is."""
  rows: list[help_pages.Row] = []
  for (kind, name), entry in registry.REGISTERED.items():
    options = ", ".join(cell_options(name)) if kind == "cell" else ""
    text = f"{entry.summary} Options: {options}." if options else entry.summary
    rows.append({"flag": f"{kind} {name}", "default": None, "help": text})
  return {"Registered by the modules of --import": rows} if rows else {}
