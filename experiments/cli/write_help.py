"""Writes the help of every command to `help_pages.json`; to be called after flags have changed.

  python -m experiments.cli.write_help

Commands do not import this module, which imports all of them.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import help_pages
from experiments.cli.flag_table import Flag
from experiments.cli.help_pages import Page, Row

_EXPERIMENTS = Path(__file__).parents[1]


def generate() -> dict[str, Page]:
  """Returns the page of each command, made from its module's docstring and its table of flags.

  The commands are the modules of `experiments` and the packages that have a `__main__`. A command
  with flags holds their table in `TABLE`.
  """
  names = {path.stem for path in _EXPERIMENTS.glob("*.py")} - {"__init__"}
  packages = {path.parent.name for path in _EXPERIMENTS.glob("*/__main__.py")}
  pages = {}
  for name in sorted(names | packages):
    module = importlib.import_module(f"experiments.{name}{'.__main__' * (name in packages)}")
    pages[name] = _page(inspect.getdoc(module) or "", getattr(module, "TABLE", ()))
  return pages


def _page(about: str, table: Sequence[Flag]) -> Page:
  groups: dict[str, list[Row]] = {}
  for flag in table:
    row: Row = {"flag": flag.form, "default": flag.default, "help": flag.help}
    groups.setdefault(flag.group or "Flags", []).append(row)
  return {"about": about, "groups": groups}


if __name__ == "__main__":
  text = json.dumps(generate(), indent=1, ensure_ascii=False) + "\n"
  help_pages.FILE.write_text(text, encoding="utf-8")
