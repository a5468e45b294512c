"""Flagfiles: found by path or name, read, and replaced by the flags that they hold."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from experiments.cli.paths import path

FOLDER = Path(__file__).parents[1] / "flagfiles"
# Limits on flagfiles, far above what anyone writes.
_MOST_FLAGFILES, _LONGEST_FLAGFILE = 1000, 2**20


def find(name: str, text: str) -> Path:
  """Returns the path of a flagfile.

  Args:
    name: the flag's name, for errors.
    text: the flagfile's path, or the name of one in `experiments/flagfiles`, with or without
      `.flags`. A file of that path in the current folder takes precedence.
  Raises:
    ValueError: if `text` cannot be a path, or is neither a path nor a name.
  """
  given = path(name, text)
  # Unlike Path.exists, os.path.exists accepts names that are too long.
  if not text or "/" in text or (os.path.exists(given) and not given.is_dir()):
    return given
  named = FOLDER / (given.name.removesuffix(".flags") + ".flags")
  if os.path.exists(named):
    return named
  names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.flags")))
  raise ValueError(f"{name} must be a path of a file, or one of {names}, got '{text}'.")


def expand(
  args: Sequence[str], seen: frozenset[Path] = frozenset(), number: Iterator[int] | None = None
) -> list[str]:
  """Returns the arguments with each `--flagfile` replaced by the flags in its file.

  absl would read the files a second time, after our checks, and find a pipe empty.

  Args:
    args: arguments, or lines of a flagfile.
    seen: the flagfiles that include these lines, directly or through others; none of them may be
      included again.
    number: counts the flagfiles that are read. Without a limit, files that each include the next
      one twice would be read exponentially often.
  Raises:
    ValueError: if a flagfile is unreadable, includes itself, or has a line that is not a flag, or
      if there are too many.
  """
  number = itertools.count(1) if number is None else number
  expanded: list[str] = []
  rest = iter(args)
  for arg in rest:
    if arg == "--":
      return [*expanded, arg, *rest]
    name, equals, value = arg.partition("=")
    if name not in ("--flagfile", "-flagfile"):
      expanded.append(arg)
      continue
    if not equals:
      value = next(rest, "")
    file = find("--flagfile", value)
    if file in seen:
      raise ValueError(f"--flagfile must not include itself, got {value}.")
    if next(number) > _MOST_FLAGFILES:
      raise ValueError(f"--flagfile must include at most {_MOST_FLAGFILES} files, got {value}.")
    expanded += expand(_flagfile_lines(file, value), seen | {file}, number)
  return expanded


def _flagfile_lines(file: Path, given: str) -> list[str]:
  """Returns the flags in a flagfile; `given` is its path in errors, which are ValueErrors."""
  try:
    with file.open(encoding="utf-8-sig") as opened:
      text = opened.read(_LONGEST_FLAGFILE + 1)
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
    raise ValueError(f"--flagfile must be a readable file, got '{given}' ({reason}).") from None
  if len(text) > _LONGEST_FLAGFILE:  # a device may be endless
    raise ValueError(
      f"--flagfile must have at most {_LONGEST_FLAGFILE} characters, got more in {given}."
    )
  lines = []
  # Unlike splitlines, this does not split at characters such as U+2028, which a path may contain.
  for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
    if not line or line.startswith(("#", "//")):
      continue
    if not line.startswith("-") or not ("=" in line or _is_boolean(line)):
      raise ValueError(
        f"--flagfile must hold one --flag=value or boolean flag per line, got '{line}' in line "
        f"{number} of {given}."
      )
    lines.append(line)
  return lines


def _is_boolean(flag: str) -> bool:
  """Returns whether `flag` is `--name` or `--noname` of a boolean flag."""
  name = flag.lstrip("-")
  return any(n in flags.FLAGS and flags.FLAGS[n].boolean for n in (name, name.removeprefix("no")))
