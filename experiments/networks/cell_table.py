"""The table of the cells, made from their constructors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.cli import tables
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


TITLES = ("cell", "what it is", "options", "source")


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


def show() -> None:
  """Prints the table."""
  tables.show(TITLES, rows())
