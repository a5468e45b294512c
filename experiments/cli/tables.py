"""Tables of text, as Markdown or on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]], names: int | None = None) -> str:
  """Returns a table as Markdown text, one line per row.

  The columns after the first `names` ones hold numbers, which are aligned right; None for no such
  columns.
  """
  rule = ["---" if names is None or i < names else "--:" for i in range(len(titles))]
  lines = [titles, rule, *rows]
  escaped = [[entry.replace("|", r"\|") for entry in line] for line in lines]
  return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def show(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
  """Prints a table in Markdown; on a terminal, long cells are wrapped."""
  console = Console()
  if not console.is_terminal:
    print(markdown(titles, rows), end="")
    return
  table = Table(box=box.MARKDOWN, show_lines=True)
  for title in titles:
    table.add_column(Text(title), overflow="fold")
  for row in rows:
    table.add_row(*map(Text, row))  # rich would take brackets in a text for markup
  console.print(table)
