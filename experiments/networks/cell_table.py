"""Descriptions of cells, generated from their constructors: a table of all, a page of one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.cli import tables
from experiments.networks.cell_options import ALL, value_text
from rnn_jax.cells import CELLS


class Row(NamedTuple):
  """The row of one cell in the table of cells.

  Attributes:
    cell: name of the cell.
    what: first line of its constructor's docstring.
    options: its options with their default values.
    source: authors, year and URL of its constructor's first reference.
  """

  cell: str
  what: str
  options: str
  source: str


TITLES = ("cell", "what it is", "options", "source")


def rows() -> list[Row]:
  """Returns a row for each registered cell."""
  return [_row(name, constructor) for name, constructor in CELLS.items()]


def _row(name: str, constructor: Callable[..., Any]) -> Row:
  text = inspect.getdoc(constructor) or ""
  parameters = inspect.signature(constructor).parameters.values()
  options = [f"{p.name}={value_text(p.default)}" for p in parameters if p.kind is p.KEYWORD_ONLY]
  return Row(name, text.split("\n")[0], ", ".join(options), _source(text))


def _source(text: str) -> str:
  """Returns authors, year and URL of a docstring's first reference: `Elman, 1990, https://…`."""
  references = " ".join(text.partition("References:")[2].split())
  found = re.match(r"(.+?, \d{4}\w?)\b.*?(https?://\S*[^\s.,;)])", references)
  return ", ".join(found.groups()) if found else ""


class Option(NamedTuple):
  """The row of one option in the table of a cell's options.

  Attributes:
    name: name of the option.
    default: its default value.
    values: the values that it takes.
    meaning: its description in the docstring of the cell's constructor.
  """

  name: str
  default: str
  values: str
  meaning: str


OPTION_TITLES = ("option", "default", "values", "meaning")


def options(cell: str) -> list[Option]:
  """Returns a row for each option of a registered cell."""
  parameters = inspect.signature(CELLS[cell]).parameters.values()
  return [
    Option(p.name, value_text(p.default), _values(cell, p), _meaning(cell, p.name))
    for p in parameters
    if p.kind is p.KEYWORD_ONLY
  ]


_KINDS = {
  "bool": "true, false",
  "int": "an integer",
  "float": "a number",
  "int | float": "a number",
  "Number": "a number",
}


def _values(cell: str, option: inspect.Parameter) -> str:
  """Returns, as text, the values that an option takes; '' if its annotation does not say."""
  if option.annotation is option.empty:
    return ""
  annotation = inspect.formatannotation(option.annotation).strip("'")
  kind = annotation.removesuffix(" | None")
  text = _choices(cell, option.name) if kind == "str" else _KINDS.get(kind, kind)
  return text + ", or none" * (kind != annotation)


def _choices(cell: str, option: str) -> str:
  """Returns the values of an option that is a word, which the constructor's error lists."""
  try:
    CELLS[cell](8, **{option: ""})
  except Exception as error:  # a cell from elsewhere may raise anything
    return str(error).partition("Choose one of: ")[2].removesuffix(".") or "a word"
  return "any text"


def _meaning(cell: str, option: str) -> str:
  """Returns an option's description; where it refers to another cell, that cell's description."""
  arguments = (inspect.getdoc(CELLS[cell]) or "").partition("\nArgs:\n")[2]
  entries = re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", arguments, flags=re.MULTILINE)
  text = next((text for names, text in entries if option in names.split(", ")), "")
  other = re.fullmatch(r"see `(\w+)`\.", text)
  if other and other[1] in CELLS and other[1] != cell:
    return _meaning(other[1], option)
  return " ".join(text.split())


def show(cell: str) -> None:
  """Prints the table of cells, or the description of one cell.

  Args:
    cell: name of the cell; `ALL` for the table.
  """
  if cell == ALL:
    tables.show(TITLES, rows())
    return
  text = inspect.getdoc(CELLS[cell]) or ""
  head, _, rest = text.partition("\nArgs:\n")
  print(f"{cell}: {head.rstrip()}\n")
  tables.show(OPTION_TITLES, options(cell))
  refused = re.search(r"^Raises:\n  [\w, ]+: (if .*(?:\n    .*)*)", rest, flags=re.MULTILINE)
  if refused:
    print(f"\nAn error is raised {' '.join(refused[1].split())}")
  references = rest.partition("References:\n")[2].rstrip()
  if references:
    print(f"\nReferences:\n{references}")
