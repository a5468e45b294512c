"""What flags say of cells beside their names: options, and a width that matches others'."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments.cli import parsers
from experiments.cli.flag_table import Flag
from rnn_jax import checks
from rnn_jax.cells import CELLS, cell_options

Options = tuple[tuple[str, Any], ...]  # (name, value), sorted by name: hashable

_WORDS = {"true": True, "false": False, "none": None}


@dataclasses.dataclass(frozen=True)
class CellOption:
  """What one `--cell_option` says.

  Attributes:
    cell: the one cell that it is for; None for all that have it.
    name: of the option.
    values: of it, one or more.
  """

  cell: str | None
  name: str
  values: tuple[Any, ...]

  def __str__(self) -> str:
    """As on the command line."""
    cell = "" if self.cell is None else f"{self.cell}."
    return f"{cell}{self.name}={','.join(map(value_text, self.values))}"


def fixed_width() -> int | None:
  """What `--hidden_size` says; None where `--match_params` is given in its place.

  Raises:
    ValueError: both are given.
  """
  values = flags.FLAGS
  if values.match_params is None:
    return values.hidden_size
  if values["hidden_size"].present:
    raise ValueError(
      "--match_params and --hidden_size must not be given together, got "
      f"{values.match_params} and {values.hidden_size}."
    )
  return None


def parse(text: str) -> CellOption:
  """`name=value`, `name=v1,v2` or `cell.name=value`.

  Raises:
    ValueError: it is not of that form, or holds a value twice.
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
  """Returns the row of `--cell_option`; it takes a comma list of values if it is an axis."""
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

LIST_CELLS = Flag(
  "list_cells", "false", None, "Print a table of the cells, their options and sources, then exit."
)


def value_of(text: str) -> Any:
  """An integer, a float, true, false or none; else the word itself.

  Raises:
    ValueError: it is a number that is not finite in float32, and no infinity itself.
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
    # With an integer that no int32 holds, jax would not compute.
    if kind is float or abs(value) < 2**31:
      return value
  return text


def value_text(value: Any) -> str:
  """What `value_of` reads as `value`."""
  return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def options_text(options: Options) -> str:
  """`activation=relu, recurrent_kernel=identity`; '' for none."""
  return ", ".join(f"{name}={value_text(value)}" for name, value in options)


def as_flags(cell: str, options: Options) -> str:
  """A cell and its options on the command line."""
  given = [CellOption(None, name, (value,)) for name, value in options]
  return " ".join([f"--cell={cell}", *(f"--cell_option={option}" for option in given)])


@contextlib.contextmanager
def errors_of(cell: str, options: Options) -> Iterator[None]:
  """Lets the errors of a cell's constructor begin with the flags that ask for it."""
  try:
    yield
  except (TypeError, ValueError) as error:
    raise ValueError(f"{as_flags(cell, options)}: {error}") from None


def by_cell(
  given: Sequence[CellOption], cells: Sequence[str], flags_of_their_own: Collection[str] = ()
) -> dict[str, dict[str, tuple[Any, ...]]]:
  """The values of its options, for each cell.

  Args:
    given: the flags.
    cells: the chosen cells.
    flags_of_their_own: options of cells that have a flag each.
  Returns:
    cell -> name -> values, the names in alphabetical order.
  Raises:
    ValueError: no chosen cell has an option, or a cell is given one twice.
  """
  found: dict[str, dict[str, tuple[Any, ...]]] = {cell: {} for cell in cells}
  known = {
    cell: [name for name in cell_options(cell) if name not in flags_of_their_own] for cell in cells
  }
  for option in given:
    if option.name in flags_of_their_own:
      raise ValueError(
        f"--cell_option must not hold {option.name}, which has a flag of its own, "
        f"--{option.name}, got '{option}'."
      )
    for cell in _takers(option, known):
      if option.name in found[cell]:
        raise ValueError(
          f"--cell_option must not give {option.name} of {cell} twice, got it again in '{option}'."
        )
      found[cell][option.name] = tuple(_as_taken(cell, option.name, v) for v in option.values)
  return {cell: dict(sorted(options.items())) for cell, options in found.items()}


def _as_taken(cell: str, name: str, value: Any) -> Any:
  """To an option whose default is a word, none is a word too."""
  default = inspect.signature(CELLS[cell]).parameters[name].default
  return "none" if value is None and isinstance(default, str) else value


def _takers(option: CellOption, known: Mapping[str, Sequence[str]]) -> list[str]:
  """The cells that an option is for."""
  kind = "--cell_option"
  if option.cell is not None:
    checks.choice(f"cell of {kind}", option.cell, CELLS)
    if option.cell not in known:
      chosen = ", ".join(known)
      raise ValueError(f"{kind} must be for a chosen cell, {chosen}, got '{option}'.")
    known, kind = {option.cell: known[option.cell]}, f"{kind} of cell {option.cell}"
  names = {name for options in known.values() for name in options}
  if not names:
    cells = ", ".join(known)
    raise ValueError(f"--cell_option is for cells with options, got '{option}' for {cells}.")
  checks.choice(kind, option.name, names)
  return [cell for cell, options in known.items() if option.name in options]
