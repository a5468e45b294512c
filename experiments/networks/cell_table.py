"""The table of the cells, made from their constructors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.networks.cell_options import value_text
from rnn_jax.cells import CELLS


class Row(NamedTuple):
  """What the table says of a cell, in its columns.

  Attributes:
    cell: its name.
    what: the first line of its docstring.
    options: with their defaults.
    source: its first reference, and where that is to be had.
  """

  cell: str
  what: str
  options: str
  source: str


_TITLES = Row("cell", "what it is", "options", "source")


def rows() -> list[Row]:
  """A row for each registered cell."""
  return [_row(name, constructor) for name, constructor in CELLS.items()]


def _row(name: str, constructor: Callable[..., Any]) -> Row:
  text = inspect.getdoc(constructor) or ""
  parameters = inspect.signature(constructor).parameters.values()
  options = [f"{p.name}={value_text(p.default)}" for p in parameters if p.kind is p.KEYWORD_ONLY]
  return Row(name, text.split("\n")[0], ", ".join(options), _source(text))


def _source(text: str) -> str:
  """Authors, year and address of the first reference, such as `Elman, 1990, https://…`."""
  references = " ".join(text.partition("References:")[2].split())
  found = re.match(r"(.+?, \d{4}\w?)\b.*?(https?://\S*[^\s.,;)])", references)
  return ", ".join(found.groups()) if found else ""


def markdown() -> str:
  """The table in Markdown, a line a cell."""
  lines = [_TITLES, Row(*["---"] * len(_TITLES)), *rows()]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show() -> None:
  """Prints the table: in Markdown, its lines broken where that is for a terminal."""
  console = Console()
  if not console.is_terminal:
    print(markdown(), end="")
    return
  table = Table(box=box.MARKDOWN, show_lines=True)
  for title in _TITLES:
    table.add_column(title, overflow="fold")
  for row in rows():
    table.add_row(*row)
  console.print(table)
