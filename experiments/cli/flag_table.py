"""Tables of flags, from which the flags are defined and their documentation is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from absl import flags

from experiments.cli import parsers, tables
from experiments.cli.parsers import Parse


class Flag(NamedTuple):
  """One row of a table of flags.

  Attributes:
    name: the flag's name, without dashes.
    default: the flag's default, as text; None for a flag that has none.
    parse: text -> value; None for a boolean flag, which is given as `--name` or `--noname`. An axis
      of booleans may be given as `--name=false,true`, too.
    help: what the flag does, and the values that it takes.
    kind: `single` for one value; `axis` for comma-separated values, over which a sweep iterates;
      `list` for a comma list that is one value; `repeated` for a flag that may be given several
      times and holds a list; `optional` for one value, which may be left out: then it is `true`, or
      after `--no` it is `false`.
    group: title of the flag's group in `--help`.
  """

  name: str
  default: str | None
  parse: Parse | None
  help: str
  kind: Literal["single", "list", "axis", "repeated", "optional"] = "single"
  group: str = ""

  @property
  def form(self) -> str:
    """How the flag is given, such as `--cell` or `--[no]dry_run`."""
    if self.kind == "optional":
      return f"--{self.name}[=NAME]"
    return f"--[no]{self.name}" if self.parse is None else f"--{self.name}"


def grouped(title: str, table: Iterable[Flag]) -> tuple[Flag, ...]:
  """Returns the flags of a table as a group of `--help` with this title."""
  return tuple(flag._replace(group=title) for flag in table)


def define(table: Iterable[Flag]) -> None:
  """Defines the flags of a table, which holds all axes of the command."""
  table = list(table)
  axes = [flag.name for flag in table if flag.kind == "axis"]
  for flag in table:
    parse = flag.parse or parsers.boolean(flag.name)
    if flag.kind == "axis":
      parsers.define_list(flag.name, flag.default, parse, _full_help(flag))
      flags.FLAGS[flag.name].boolean = flag.parse is None
    elif flag.kind == "repeated":
      parsers.define_several(flag.name, parse, flag.help)
    else:
      if flag.kind != "list":
        parse = _one_value(flag.name, parse, axes)
      parsers.define(flag.name, flag.default, parse, flag.help)
      flags.FLAGS[flag.name].boolean = flag.parse is None or flag.kind == "optional"


def given(table: Iterable[Flag]) -> dict[str, Any]:
  """Returns {flag: value} of those flags of a table that the user gave."""
  found = {flag.name: flags.FLAGS[flag.name] for flag in table}
  return {name: flag.value for name, flag in found.items() if flag.present}


def defaults(table: Iterable[Flag]) -> dict[str, Any]:
  """Returns {flag: default} of the flags of a table; the default of a repeated flag is []."""
  return {flag.name: [] if flag.kind == "repeated" else _default(flag) for flag in table}


def _default(flag: Flag) -> Any:
  return None if flag.default is None else parser(flag)(flag.default)


def parser(flag: Flag) -> Parse:
  """Returns the parser of a flag's text; of a repeated flag, the parser of one of its texts."""
  parse = flag.parse or parsers.boolean(flag.name)
  return parsers.several(flag.name, parse) if flag.kind == "axis" else parse


def _one_value(name: str, parse: Parse, axes: Sequence[str]) -> Parse:
  """Returns a parser whose error for several valid values says that `name` is no axis."""

  def parse_one(text: str) -> Any:
    try:
      return parse(text)
    except ValueError:
      if not _are_several(name, parse, text):
        raise
    hint = "This command has no axes; experiments.sweep trains with each of several values."
    if axes:
      hint = f"The axes, which take several, are {', '.join(axes)}."
    raise ValueError(f"{name} must be one value, since it is not an axis, got '{text}'. {hint}")

  return parse_one


def _are_several(name: str, parse: Parse, text: str) -> bool:
  """Returns whether a text lists several distinct values, all of them valid."""
  try:
    return len(parsers.several(name, parse)(text)) > 1
  except ValueError:
    return False


def _full_help(flag: Flag) -> str:
  return flag.help + " A comma list spans an axis of the sweep." * (flag.kind == "axis")


def markdown(table: Iterable[Flag]) -> str:
  """Returns the table as Markdown text, one line per flag."""
  rows = [
    (f"`--{flag.name}`", f"`{flag.default}`" if flag.default else "", _full_help(flag))
    for flag in table
  ]
  return tables.markdown(("flag", "default", "what it does"), rows)
