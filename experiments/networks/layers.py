"""The layers of a network: their flags, their configuration, and the cells built from it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from absl import flags

from experiments.cli import flag_table, plugins
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import choice, integer, number, sizes
from experiments.networks import cell_options
from experiments.networks.cell_options import Options
from experiments.networks.matched_width import Matched, check_near, count_params, matched_width
from experiments.runtime import memory
from rnn_jax.cells import CELLS, layer_norm, make_cell, residual, zoneout
from rnn_jax.modules.network import DROPOUT_MASKS
from rnn_jax.types import Cell


@dataclasses.dataclass(frozen=True)
class Layers:
  """The configuration of a network's layers, as the flags describe it.

  Attributes:
    cell: name of the cell.
    depth: number of recurrent layers.
    hidden_size: hidden size of each recurrent layer; None until it is chosen from `match_params`.
    zoneout: probability that a unit keeps its previous carry; 0 for no zoneout.
    residual: whether each layer's input is added to its output, from the second layer on.
    layer_norm: whether each layer's input is normalized, from the second layer on.
    dropout: dropout rate between layers; 0 for no dropout.
    dropout_mask: `step` for a new dropout mask at every time step, `sequence` for one mask per
      sequence.
    hidden_sizes: sizes of the feed-forward layers between the recurrent layers and the readout.
    options: the cell options that were given; the cell's other options have their defaults.
    match_params: parameter budget from which `hidden_size` is still to be chosen; None if
      `hidden_size` is known.
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
    """Returns the hidden size of each recurrent layer.

    Raises:
      ValueError: if the hidden size has not been chosen yet.
    """
    if self.hidden_size is None:
      raise ValueError("hidden_size must be known, got None.")
    return self.hidden_size


ZONEOUT = Flag(
  "zoneout",
  "0",
  number("zoneout", "a number from 0 to 1", lambda v: 0 <= v <= 1),
  "Probability that a unit keeps its previous carry over a time step, in training.",
)
RESIDUAL = Flag(
  "residual", "false", None, "Add each layer's input to its output, from the second layer on."
)
LAYER_NORM = Flag(
  "layer_norm", "false", None, "Normalize each layer's input, from the second layer on."
)
DROPOUT = Flag(
  "dropout",
  "0",
  number("dropout", "a number from 0 to below 1", lambda v: 0 <= v < 1),
  "Rate of dropout between layers.",
)

TABLE = (
  Flag(
    "cell",
    "lstm",
    choice("cell", CELLS, hint=plugins.IMPORT_HINT),
    "Name of a cell; --list_cells prints a table of them.",
  ),
  cell_options.flag(axis=False),
  Flag("depth", "1", integer("depth"), "Number of recurrent layers."),
  Flag("hidden_size", "128", integer("hidden_size"), "Hidden size of every recurrent layer."),
  cell_options.MATCH_PARAMS,
  ZONEOUT,
  RESIDUAL,
  LAYER_NORM,
  DROPOUT,
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
    "list",
  ),
)


def define() -> None:
  """Defines the command-line flags from which `from_flags` builds a `Layers`."""
  flag_table.define(TABLE)


def from_flags() -> Layers:
  """Returns the layers that the flags describe.

  Raises:
    ValueError: if `--hidden_size` and `--match_params` are both given, or the cell does not accept
      a `--cell_option`.
  """
  names = [field.name for field in dataclasses.fields(Layers) if field.name != "options"]
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
  cell_options.check_width(values["match_params"], bool(flags.FLAGS["hidden_size"].present))
  if values["match_params"] is not None:
    values["hidden_size"] = None
  found = cell_options.by_cell(flags.FLAGS.cell_option or [], [values["cell"]])[values["cell"]]
  return Layers(**values, options=tuple((name, value) for name, (value,) in found.items()))


def with_matched_width(
  layers: Layers, input_size: int, *, ways: int = 1, merged: int = 1
) -> Layers:
  """Returns the layers with the hidden size that meets their parameter budget `match_params`.

  Layers without a budget are returned unchanged.

  Args:
    layers: the layers.
    input_size: input size of the first layer.
    ways, merged: as in `count_params`.
  Raises:
    ValueError: if the cell rejects its options, or no hidden size meets the budget.
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
  check_near([Matched(f"{layers.cell}, depth {layers.depth}", count, width, number)], wanted)
  return at(width)


def make_cells(layers: Layers) -> list[Cell]:
  """Returns the cell of each recurrent layer, bottom layer first.

  With both `residual` and `layer_norm`, a layer with cell f computes y = x + f(LN(x)). The first
  layer gets neither, because the network's input may be tokens.
  """
  cells = []
  plain = make_cell(layers.cell, layers.width, **dict(layers.options))
  if layers.zoneout > 0:
    plain = zoneout(plain, layers.zoneout)
  for i in range(layers.depth):
    cell = plain
    if layers.layer_norm and i > 0:
      cell = layer_norm(cell)
    if layers.residual and i > 0:
      cell = residual(cell)
    cells.append(cell)
  return cells


def check(layers: Layers, length_flag: str, length: int, batch_size: int) -> None:
  """Checks that the cells can be built and that the network fits into memory.

  Args:
    layers: the layers, with a known hidden size.
    length_flag: name of the flag that holds the sequence length, for the error message.
    length: sequence length.
    batch_size: sequences in a batch.
  Raises:
    ValueError: if a cell rejects its options, or the network does not fit.
  """
  top = (layers.width, *layers.hidden_sizes)
  carries = layers.depth * length * batch_size * layers.width
  entries = carries + sum(a * b for a, b in itertools.pairwise(top))
  # The first check leaves out the params, because counting them fails for a huge hidden size.
  _check_memory(entries, length_flag)
  with cell_options.errors_of(layers.cell, layers.options):
    params = count_params(make_cells(layers), 1)
  _check_memory(entries + params, length_flag)


def _check_memory(entries: int, length_flag: str) -> None:
  names = f"--hidden_size or --match_params, --hidden_sizes, --depth, --{length_flag}"
  memory.check(entries, f"{names} and --batch_size", "the network needs")


def module_options(layers: Layers) -> dict[str, Any]:
  """Returns the keyword arguments to pass to `DeepRNN` or `BidirectionalRNN` with the cells."""
  return {
    "dropout": layers.dropout,
    "dropout_mask": layers.dropout_mask,
    "hidden_sizes": layers.hidden_sizes,
  }
