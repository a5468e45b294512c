"""The table of cells, generated from their constructors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.cli import tables
from experiments.networks.cell_options import value_text
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


def show() -> None:
  """Prints the table of cells."""
  tables.show(TITLES, rows())
