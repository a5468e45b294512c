"""The help of every command, printed before the command's own modules are imported.

Importing jax takes longer than reading a page. So the pages, which list each command's flags, are
in a file, `help_pages.json`, which `experiments.cli.write_help` makes from the tables of flags. A
test compares the two.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from experiments.cli import standard_output

FILE = Path(__file__).with_suffix(".json")
_ASKED = {f"{dashes}{name}" for dashes in ("-", "--") for name in ("h", "help", "helpshort")}
_WIDEST, _NARROWEST = 100, 60
_EVERY_COMMAND = "Every command"
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Row(TypedDict):
  """A flag on a page: how it is given, its default as text or None, and what it does."""

  flag: str
  default: str | None
  help: str


class Page(TypedDict):
  """The help of a command: a description, and its flags by the title of their group."""

  about: str
  groups: dict[str, list[Row]]


_COMMON: list[Row] = [
  {
    "flag": "--flagfile",
    "default": None,
    "help": "File with one flag per line, by path or by its name in experiments/flagfiles. Later "
    "flags override earlier ones. Repeatable.",
  },
  {"flag": "--help", "default": None, "help": "Print this page, then exit; also -h."},
]


def is_asked(arguments: Iterable[str]) -> bool:
  """Returns whether command-line arguments ask for help."""
  return not _ASKED.isdisjoint(itertools.takewhile(lambda word: word != "--", arguments))


def has_imports(arguments: Iterable[str]) -> bool:
  """Returns whether command-line arguments have modules imported, which the page then describes."""
  names = (word.partition("=")[0] for word in arguments)
  return any(name in ("-import", "--import") for name in names)


def command() -> str:
  """Returns the full name of the module that `python -m` was started with."""
  # The interpreter's own arguments end with the name of the module, or with `-mNAME`.
  return sys.orig_argv[-len(sys.argv)].removeprefix("-m")


def show(module: str, more: Mapping[str, list[Row]] | None = None) -> None:
  """Prints a command's help and ends the program; returns if `module` is no command.

  Args:
    module: full name of the command's module or package, such as `experiments.sweep`.
    more: further groups of the page.
  """
  page = read().get(module.removeprefix("experiments.").removesuffix(".__main__"))
  if page is None:
    return
  page["groups"] |= more or {}
  standard_output.prepare()
  with standard_output.errors_end_program():
    print(text(page, shutil.get_terminal_size().columns), end="")
  sys.exit(0)


def read() -> dict[str, Page]:
  """Returns the page of each command by the command's name."""
  return json.loads(FILE.read_text(encoding="utf-8"))


def text(page: Page, width: int) -> str:
  """Returns a page as text whose lines have at most `width` columns, if its words are short."""
  width = min(width, _WIDEST)
  groups = {**page["groups"], _EVERY_COMMAND: _COMMON}
  column = 4 + max(len(row["flag"]) for rows in groups.values() for row in rows)
  parts = [_wrapped(paragraph, width) for paragraph in page["about"].split("\n\n")]
  for title, rows in groups.items():
    lines = [_fill(f"{title}:", width, "")]
    for row in rows:
      flag, meaning = f"  {row['flag']}", row["help"]
      if row["default"] is not None:
        meaning += f" [default:{_NO_BREAK}{row['default'] or repr('')}]"
      if width < _NARROWEST:
        lines += [flag, _fill(meaning, width, " " * 6)]
      else:
        lines.append(flag.ljust(column) + _fill(meaning, width, " " * column).lstrip())
    parts.append("\n".join(lines))
  return "\n\n".join(parts) + "\n"


def _wrapped(paragraph: str, width: int) -> str:
  """Returns a paragraph of a docstring with its lines wrapped, unless some of them are indented."""
  return paragraph if "\n  " in f"\n{paragraph}" else _fill(paragraph, width, "")


def _fill(words: str, width: int, indent: str) -> str:
  return textwrap.fill(
    words,
    width,
    initial_indent=indent,
    subsequent_indent=indent,
    break_long_words=False,
    break_on_hyphens=False,
  ).replace(_NO_BREAK, " ")
