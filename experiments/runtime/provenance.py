"""The provenance of results: source files, package versions, git commit, cores and processor."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import rnn_jax
from rnn_jax import registry
from rnn_jax.cells import CELLS
from rnn_jax.tasks import TASKS

# The packages whose versions affect what a training step computes.
PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "optax", "numpy")
_PARENTS = {
  "rnn_jax": Path(rnn_jax.__file__).parents[1],
  "experiments": Path(__file__).parents[2],
}
_SETTINGS = "experiments.runtime.backend"
_SCRIPT = "__main__"
_IMPORT = re.compile(
  r"^\s*(?:from ((?:rnn_jax|experiments)[\w.]*) import (?:\(([^)]*)\)|([^\n(]*))"
  r"|import ((?:rnn_jax|experiments)[\w.]*))",
  re.MULTILINE,
)


def versions(packages: Iterable[str]) -> dict[str, str]:
  """Returns the version of Python, and of each package in `packages` that is installed."""
  found = {"python": platform.python_version()}
  for name in packages:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def plugins() -> list[str]:
  """Returns the installed distributions of the packages that have registered something, sorted."""
  tops = {entry.module.partition(".")[0] for entry in registry.REGISTERED.values()}
  known = importlib.metadata.packages_distributions() if tops else {}
  return sorted({name for top in tops for name in known.get(top, ())})


@functools.cache
def git() -> dict[str, object] | None:
  """Returns this code's git commit and whether it has local changes; None outside a repository."""

  def run(*args: str) -> str:
    return subprocess.run(
      ("git", *args), cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
  except (OSError, subprocess.CalledProcessError):
    return None


class _Source(NamedTuple):
  """A source file: its name in records, the SHA-256 of its bytes, and the modules it may import."""

  name: str
  sha256: str
  imports: frozenset[str]
  is_package: bool


@functools.cache
def _source(module: str, registrations: int = 0) -> _Source | None:
  """Returns the source of a module; None if there is no such module.

  Args:
    module: full name of the module.
    registrations: how often its package has registered something. A package that is reloaded
      registers again, and its files may have changed.
  """
  parts = module.split(".")
  if parts[0] == _SCRIPT:
    return _source_in_script(".".join(parts[1:]))
  parent = _PARENTS.get(parts[0])
  folders = _folders(parts[0]) if parent is None else [parent]
  files = [folder.joinpath(*parts, "__init__.py") for folder in folders]
  files += [folder.joinpath(*parts).with_suffix(".py") for folder in folders]
  file = next((file for file in files if file.is_file()), None)
  if file is None:
    return None
  data = file.read_bytes()
  is_package = file.name == "__init__.py"
  imports = {".".join(parts[:i]) for i in range(1, len(parts))}
  imports |= _imports(data) if parent is not None else _imports_elsewhere(data, module, is_package)
  name = f"{'/'.join(parts)}{'/__init__' if is_package else ''}.py"
  return _Source(name, hashlib.sha256(data).hexdigest(), frozenset(imports), is_package)


def _source_in_script(name: str) -> _Source | None:
  """Returns the source of a function of a script or notebook; None if it is not known.

  The rest of the script does not count, since it says what to train.
  """
  entries = registry.REGISTERED.values()
  entry = next((e for e in entries if (e.module, e.name) == (_SCRIPT, name)), None)
  if entry is None:
    return None
  function = inspect.unwrap(entry.function)
  try:
    data = inspect.getsource(function).encode()
  except (OSError, TypeError):  # such as of a function that was typed at a prompt
    return None
  found = getattr(function, "__globals__", {}).values()
  modules = {v.__name__ if inspect.ismodule(v) else getattr(v, "__module__", None) for v in found}
  imports = {m for m in modules if isinstance(m, str) and m.partition(".")[0] in _PARENTS}
  return _Source(f"{_SCRIPT}.{name}", hashlib.sha256(data).hexdigest(), frozenset(imports), False)


def _folders(package: str) -> list[Path]:
  """Returns the folders that hold a top-level package or module that has been imported."""
  found = sys.modules.get(package)
  paths = getattr(found, "__path__", None) or [getattr(found, "__file__", None)]
  return [Path(path).absolute().parent for path in paths if path]


def _imports(data: bytes) -> set[str]:
  """Returns the modules of this project that one of its files may import."""
  found: set[str] = set()
  for origin, several, few, plain in _IMPORT.findall(data.decode(errors="replace")):
    # An imported name may be a submodule.
    names = re.findall(r"\w+", several or few)
    found |= {plain} if plain else {origin, *(f"{origin}.{name}" for name in names)}
  return found


def _imports_elsewhere(data: bytes, module: str, is_package: bool) -> set[str]:
  """Returns the modules of its own top-level package, and of this project, that a file imports."""
  package = module if is_package else module.rpartition(".")[0]
  try:
    nodes = list(ast.walk(ast.parse(data)))
  except (SyntaxError, ValueError):  # the file has changed since it was imported
    return set()
  found: set[str] = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      name = "." * node.level + (node.module or "")
      try:
        origin = importlib.util.resolve_name(name, package)
      except ImportError:  # a relative import outside of any package
        continue
      found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
  own = {module.partition(".")[0], *_PARENTS}
  return {name for name in found if name.partition(".")[0] in own}


def code(
  root: str,
  cell: str | None = None,
  task: str | None = None,
  measures: Collection[str] | None = None,
) -> dict[str, str]:
  """Returns {source file: its SHA-256} of the files that can change what training computes.

  These are the files that the module `root` imports, directly or not, those of the cell, the task
  and the measures, and the settings of JAX. A package that lists all cells or tasks does not import
  them in this sense. Of a cell, task or measure from another package, these are the file that
  defines it and what that imports within its package.

  Args:
    root: the module that trains.
    cell, task: names of the cell and the task; None for all of them.
    measures: names of the measures; None for all of them. Those of this project belong to `root`.
  """
  wanted = None if measures is None else tuple(measures)
  return _code(root, cell, task, wanted, registry.count())


@functools.cache
def _code(
  root: str,
  cell: str | None,
  task: str | None,
  measures: tuple[str, ...] | None,
  registrations: int,
) -> dict[str, str]:
  """Returns the result of `code`, which depends on what has been registered so far."""
  every = {maker.__module__ for maker in (*CELLS.values(), *TASKS.values())}
  every |= {entry.module for entry in registry.REGISTERED.values()}
  left = [root, _SETTINGS]
  left += [
    _module_of(entry.function)
    for (kind, name), entry in registry.REGISTERED.items()
    if kind == "measure" and (measures is None or name in measures)
  ]
  makers: Mapping[str, Callable[..., object]]
  for makers, name in ((CELLS, cell), (TASKS, task)):
    left += [_module_of(make) for key, make in makers.items() if name in (None, key)]
  found: dict[str, _Source | None] = {}
  while left:
    module = left.pop()
    if module not in found:
      source = found[module] = _source(module, registry.count(module.partition(".")[0]))
      # What `experiments` offers to its users is not what the modules in it need.
      if source is not None and module != "experiments":
        left += source.imports - every if source.is_package else source.imports
  return dict(sorted((source.name, source.sha256) for source in found.values() if source))


def _module_of(function: Callable[..., object]) -> str:
  """Returns the module that defines a function; in a script, the function's own name is added."""
  module = function.__module__
  return f"{module}.{function.__qualname__}" if module == _SCRIPT else module


def commit_text(about: Mapping[str, Any]) -> str:
  """Returns the commit in the entry `git` of a record, and whether there were local changes."""
  saved = about.get("git")
  if not isinstance(saved, dict):
    return "an unknown commit"
  changed = " (with uncommitted changes)" if saved.get("dirty") else ""
  return f"{str(saved.get('commit'))[:10]}{changed}"


def names_text(names: Iterable[str]) -> str:
  """Returns the first names of a sorted list, and how many others there are."""
  found = sorted(names)
  return ", ".join(found[:4]) + (f" and {len(found) - 4} others" if len(found) > 4 else "")


def difference(about: Mapping[str, Any], current: Mapping[str, str]) -> str | None:
  """Returns "these files differ: FILES (COMMIT then, COMMIT now)"; None if no file differs.

  Args:
    about: a record with the entries `code` and `git`.
    current: the files of this code that matter to the record, from `code`.
  """
  saved = about["code"]
  changed = [name for name, sha256 in current.items() if saved.get(name) != sha256]
  if not changed:
    return None
  then, now = commit_text(about), commit_text({"git": git()})
  return f"these files differ: {names_text(changed)} ({then} then, {now} now)"


def cores() -> list[int]:
  """Returns the indices of the CPU cores that this process may use."""
  affinity = getattr(os, "sched_getaffinity", None)  # macOS lacks this function
  return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def processor() -> str:
  """Returns the processor's name, or `unknown` if `/proc/cpuinfo` does not name it."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
