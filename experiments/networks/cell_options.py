"""Flags that configure a network's cells: `--cell_option`, `--match_params`, `--list_cells`."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli import parsers, plugins
from experiments.cli.flag_table import Flag
from rnn_jax import checks
from rnn_jax.cells import CELLS, cell_options

# The options given for a cell: (name, value) pairs sorted by name. The pairs are in a tuple so that
# the dataclasses that hold them are hashable.
Options = tuple[tuple[str, Any], ...]

_WORDS = {"true": True, "false": False, "none": None}


@dataclasses.dataclass(frozen=True)
class CellOption:
  """The parsed value of one `--cell_option` flag, which may be repeated.

  Attributes:
    cell: name of the only cell that the option applies to; None for every selected cell that
      accepts it.
    name: name of the option.
    values: values of the option; several values span an axis of a sweep.
  """

  cell: str | None
  name: str
  values: tuple[Any, ...]

  def __str__(self) -> str:
    """Returns the text from which `parse` restores the option, such as `cell.name=v1,v2`."""
    cell = "" if self.cell is None else f"{self.cell}."
    return f"{cell}{self.name}={','.join(map(value_text, self.values))}"


def check_width(match_params: int | None, hidden_size_given: bool) -> None:
  """Checks that not both `--match_params` and `--hidden_size` are given.

  Raises:
    ValueError: if both are given.
  """
  if match_params is not None and hidden_size_given:
    raise ValueError(
      "--match_params and --hidden_size must not be given together, got "
      f"--match_params={match_params}."
    )


def parse(text: str) -> CellOption:
  """Parses `name=value`, `name=v1,v2` or `cell.name=value`.

  Raises:
    ValueError: if the text has none of these forms, or repeats a value.
  """
  full, equals, listed = text.partition("=")
  names = [name.strip() for name in full.split(".")]
  if not equals or len(names) > 2 or "" in names:
    raise ValueError(f"cell_option must be name=value or cell.name=value, got '{text}'.")
  read = parsers.several("cell_option", value_of)
  return CellOption(names[0] if len(names) == 2 else None, names[-1], read(listed, text))


def _parse_single(text: str) -> CellOption:
  option = parse(text)
  if len(option.values) > 1:
    raise ValueError(f"cell_option must hold one value, got '{text}'.")
  return option


def flag(axis: bool) -> Flag:
  """Returns the definition of the flag `--cell_option`.

  Args:
    axis: whether the flag accepts a comma list of values, which spans an axis of a sweep.
  """
  return Flag(
    "cell_option",
    "none",
    parse if axis else _parse_single,
    "Cell option, as name=value (every selected cell that accepts it) or cell.name=value (that "
    "cell only). Repeatable. --list_cells prints each cell's options."
    + " A comma list of values spans an axis of the sweep."
    * axis,
    "repeated",
  )


MATCH_PARAMS = Flag(
  "match_params",
  "none",
  parsers.integer("match_params", none="none"),
  "Parameter budget for the recurrent layers, or none. Chooses each network's hidden size to match "
  "it, for a fair comparison across cells. Mutually exclusive with --hidden_size.",
)

ALL = "all"


def _parse_listed(text: str) -> str | None:
  """Returns the cell to describe, or `ALL`, or None if no cells are to be listed."""
  if text in ("false", "none"):
    return None
  return ALL if text in ("true", ALL) else checks.choice("cell", text, CELLS)


LIST_CELLS = Flag(
  "list_cells",
  "false",
  _parse_listed,
  "Print a table of the cells, their options and sources, then exit. --list_cells=NAME describes "
  "one cell: its equations, and the values and meaning of each option.",
  "optional",
)


def value_of(text: str) -> Any:
  """Returns the int, float, bool or None that `text` stands for; any other text is returned as is.

  Raises:
    ValueError: if the text is a finite number that overflows float32.
  """
  if text.lower() in _WORDS:
    return _WORDS[text.lower()]
  for kind in (int, float):
    try:
      value = kind(text)
    except ValueError:
      continue
    if kind is float and float(np.finfo(np.float32).max) < abs(value) < math.inf:
      raise ValueError(f"cell_option must hold numbers that are finite in float32, got {text}.")
    # An integer beyond int32 becomes a float, because JAX's default integers have 32 bits.
    if kind is float or abs(value) < 2**31:
      return value
  return text


def value_text(value: object) -> str:
  """Returns an option's value as text, from which `value_of` restores the value."""
  return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def options_text(options: Options) -> str:
  """Returns options as text, such as `activation=relu, recurrent_kernel=identity`."""
  return ", ".join(f"{name}={value_text(value)}" for name, value in options)


def as_flags(cell: str, options: Options) -> str:
  """Returns, as text, the command-line flags that select a cell and set its options."""
  given = [CellOption(None, name, (value,)) for name, value in options]
  return " ".join([f"--cell={cell}", *(f"--cell_option={option}" for option in given)])


@contextlib.contextmanager
def errors_of(cell: str, options: Options) -> Iterator[None]:
  """Re-raises errors of the cell's constructor as ValueErrors that quote the cell's flags."""
  try:
    yield
  except (TypeError, ValueError) as error:
    raise ValueError(f"{as_flags(cell, options)}: {plugins.message(error)}") from None


def by_cell(
  given: Sequence[CellOption], cells: Sequence[str], own_flags: Collection[str] = ()
) -> dict[str, dict[str, tuple[Any, ...]]]:
  """Returns the values of each selected cell's options.

  Args:
    given: parsed values of all `--cell_option` flags.
    cells: names of the selected cells.
    own_flags: names of options that `--cell_option` must not set, because each has its own flag.
  Returns:
    {cell: {option: values}}, with the options in alphabetical order.
  Raises:
    ValueError: if no selected cell accepts an option, a cell gets an option twice, or an option is
      one of `own_flags`.
  """
  found: dict[str, dict[str, tuple[Any, ...]]] = {cell: {} for cell in cells}
  known = {cell: [name for name in cell_options(cell) if name not in own_flags] for cell in cells}
  for option in given:
    if option.name in own_flags:
      raise ValueError(
        f"--cell_option must not hold {option.name}, which has its own flag, "
        f"--{option.name}, got '{option}'."
      )
    for cell in _takers(option, known):
      if option.name in found[cell]:
        raise ValueError(
          f"--cell_option must not give {option.name} of {cell} twice, got it again in '{option}'."
        )
      found[cell][option.name] = tuple(_none_as_text(cell, option.name, v) for v in option.values)
  return {cell: dict(sorted(options.items())) for cell, options in found.items()}


def _none_as_text(cell: str, name: str, value: Any) -> Any:
  """Returns an option's value, but 'none' instead of None if the option's default is a string.

  `parse` turns the text `none` into None because it does not know the option's default.
  """
  default = inspect.signature(CELLS[cell]).parameters[name].default
  return "none" if value is None and isinstance(default, str) else value


def _takers(option: CellOption, known: Mapping[str, Sequence[str]]) -> list[str]:
  """Returns the names of the selected cells that an option applies to.

  Args:
    option: the option.
    known: {selected cell: names of the options that `--cell_option` may set for it}.
  Raises:
    ValueError: if no selected cell accepts the option.
  """
  kind = "--cell_option"
  if option.cell is not None:
    checks.choice(f"cell of {kind}", option.cell, CELLS)
    if option.cell not in known:
      selected = ", ".join(known)
      raise ValueError(f"{kind} must be for a selected cell, {selected}, got '{option}'.")
    known, kind = {option.cell: known[option.cell]}, f"{kind} of cell {option.cell}"
  names = {name for options in known.values() for name in options}
  if not names:
    cells = ", ".join(known)
    raise ValueError(f"--cell_option is for cells with options, got '{option}' for {cells}.")
  checks.choice(kind, option.name, names)
  return [cell for cell, options in known.items() if option.name in options]
