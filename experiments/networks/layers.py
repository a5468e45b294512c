"""The layers of a network, as flags describe them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from absl import flags

from experiments.cli import flag_table
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import choice, integer, number, sizes
from experiments.networks import cell_options
from experiments.networks.cell_options import Options
from experiments.networks.matched_width import check_near, count_params, matched_width
from experiments.runtime import memory
from rnn_jax.cells import CELLS, layer_norm, make_cell, residual, zoneout
from rnn_jax.modules.network import DROPOUT_MASKS
from rnn_jax.types import Cell


@dataclasses.dataclass(frozen=True)
class Layers:
  """What flags say of a network's layers.

  Attributes:
    cell: name of the cell.
    depth: number of recurrent layers.
    hidden_size: width of each of them; None until it is chosen by `match_params`.
    zoneout: rate at which a unit keeps its old carry; 0 for none.
    residual: from the second layer on, a layer's input is added to its output.
    layer_norm: from the second layer on, a layer's input is normalised.
    dropout: rate between layers; 0 for none.
    dropout_mask: `step` or `sequence`.
    hidden_sizes: widths of the feed-forward layers on top.
    options: of the cell, as they were given; the rest have their defaults.
    match_params: number of params of the recurrent layers together, by which their width is still
      to be chosen; None where it is known.
  """

  cell: str
  depth: int
  hidden_size: int | None
  zoneout: float
  residual: bool
  layer_norm: bool
  dropout: float
  dropout_mask: str
  hidden_sizes: tuple[int, ...]
  options: Options = ()
  match_params: int | None = None

  @property
  def width(self) -> int:
    """The width of each recurrent layer."""
    if self.hidden_size is None:
      raise ValueError("hidden_size must be known, got None.")
    return self.hidden_size


TABLE = (
  Flag(
    "cell", "lstm", choice("cell", CELLS), "Name of a cell; --list_cells prints a table of them."
  ),
  cell_options.flag(axis=False),
  Flag("depth", "1", integer("depth"), "Number of recurrent layers."),
  Flag("hidden_size", "128", integer("hidden_size"), "Hidden size of every recurrent layer."),
  cell_options.MATCH_PARAMS,
  Flag(
    "zoneout",
    "0",
    number("zoneout", "a number from 0 to 1", lambda v: 0 <= v <= 1),
    "Probability that a unit keeps its previous carry over a time step, in training.",
  ),
  Flag(
    "residual", "false", None, "Add each layer's input to its output, from the second layer on."
  ),
  Flag("layer_norm", "false", None, "Normalize each layer's input, from the second layer on."),
  Flag(
    "dropout",
    "0",
    number("dropout", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "Rate of dropout between layers.",
  ),
  Flag(
    "dropout_mask",
    "step",
    choice("dropout_mask", DROPOUT_MASKS),
    "Dropout mask: step, a new one at every time step; sequence, one for the whole sequence.",
  ),
  Flag(
    "hidden_sizes",
    "none",
    sizes("hidden_sizes"),
    "Sizes of feed-forward layers between the recurrent layers and the readout, as a comma list, "
    "or none.",
  ),
  cell_options.LIST_CELLS,
)


def define() -> None:
  """Defines the flags of `Layers`."""
  flag_table.define(TABLE)


def given() -> Layers:
  """What the flags say.

  Raises:
    ValueError: naming the flag, the rule and what came.
  """
  names = [field.name for field in dataclasses.fields(Layers) if field.name != "options"]
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
  values["hidden_size"] = cell_options.fixed_width()
  found = cell_options.by_cell(flags.FLAGS.cell_option or [], [values["cell"]])[values["cell"]]
  return Layers(**values, options=tuple((name, value) for name, (value,) in found.items()))


def with_matched_width(
  layers: Layers, input_size: int, *, ways: int = 1, merged: int = 1
) -> Layers:
  """The layers as wide as `match_params` makes them; those whose width is known as they are.

  Args:
    layers: of the network.
    input_size: of the first of them.
    ways, merged: as `count_params` takes them.
  Raises:
    ValueError: the cell refuses its options, or no width has so many params.
  """
  wanted = layers.match_params
  if wanted is None:
    return layers

  def at(width: int) -> Layers:
    return dataclasses.replace(layers, hidden_size=width, match_params=None)

  def count(width: int) -> int:
    return count_params(make_cells(at(width)), input_size, ways=ways, merged=merged)

  with cell_options.errors_of(layers.cell, layers.options):
    width, number = matched_width(count, wanted)
  check_near(width, number, wanted, f"{layers.cell}, depth {layers.depth}")
  return at(width)


def make_cells(layers: Layers) -> list[Cell]:
  """The cell of each layer.

  Residual and normalised layers are y = x + f(LN(x)). The first layer, which reads the network's
  input and may read tokens, is neither.
  """
  cells = []
  for i in range(layers.depth):
    cell = make_cell(layers.cell, layers.width, **dict(layers.options))
    if layers.zoneout > 0:
      cell = zoneout(cell, layers.zoneout)
    if layers.layer_norm and i > 0:
      cell = layer_norm(cell)
    if layers.residual and i > 0:
      cell = residual(cell)
    cells.append(cell)
  return cells


def check(layers: Layers, length_flag: str, length: int, batch_size: int) -> None:
  """Refuses cells that cannot be built, and sizes that would not fit into memory.

  Args:
    layers: of the network, their width known.
    length_flag: name of the flag that says how long sequences are.
    length: of sequences.
    batch_size: how many of them.
  Raises:
    ValueError: naming the flags.
  """
  top = (layers.width, *layers.hidden_sizes)
  carries = layers.depth * length * batch_size * layers.width
  entries = carries + sum(a * b for a, b in itertools.pairwise(top))
  _check_memory(entries, length_flag)  # widths out of all bounds: more params than can be counted
  with cell_options.errors_of(layers.cell, layers.options):
    params = count_params(make_cells(layers), 1)
  _check_memory(entries + params, length_flag)


def _check_memory(entries: int, length_flag: str) -> None:
  names = f"--hidden_size or --match_params, --hidden_sizes, --depth, --{length_flag}"
  memory.check(entries, f"{names} and --batch_size", "the network needs")


def options(layers: Layers) -> dict[str, Any]:
  """What else `DeepRNN` and `BidirectionalRNN` are given."""
  return {
    "dropout": layers.dropout,
    "dropout_mask": layers.dropout_mask,
    "hidden_sizes": layers.hidden_sizes,
  }
