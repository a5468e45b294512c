"""The layers of a network, as flags describe them."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any

from absl import flags

from experiments import parsers
from rnn_jax.cells import CELLS, layer_norm, make_cell, residual, zoneout
from rnn_jax.modules.network import DROPOUT_MASKS
from rnn_jax.types import Cell


@dataclasses.dataclass(frozen=True)
class Layers:
  """What flags say of a network's layers.

  Attributes:
    cell: name of the cell.
    depth: number of recurrent layers.
    hidden_size: width of each of them.
    zoneout: rate at which a unit keeps its old carry; 0 for none.
    residual: from the second layer on, a layer's input is added to its output.
    layer_norm: from the second layer on, a layer's input is normalised.
    dropout: rate between layers; 0 for none.
    dropout_mask: `step` or `sequence`.
    hidden_sizes: widths of the feed-forward layers on top.
  """

  cell: str
  depth: int
  hidden_size: int
  zoneout: float
  residual: bool
  layer_norm: bool
  dropout: float
  dropout_mask: str
  hidden_sizes: tuple[int, ...]


def define() -> None:
  """The flags of `Layers`."""
  single, integer = parsers.define, parsers.integer
  single("cell", "lstm", parsers.choice("cell", CELLS), f"Cell: {', '.join(CELLS)}.")
  single("depth", "1", integer("depth"), "Number of recurrent layers.")
  single("hidden_size", "128", integer("hidden_size"), "Width of every recurrent layer, in units.")
  single(
    "zoneout",
    "0",
    parsers.number("zoneout", "a number from 0 to 1", lambda v: 0 <= v <= 1),
    "Rate at which a unit keeps its old carry over a step, in training.",
  )
  flags.DEFINE_boolean(
    "residual", False, "From the second layer on, add what a layer reads to its output."
  )
  flags.DEFINE_boolean(
    "layer_norm", False, "From the second layer on, normalise what a layer reads."
  )
  single(
    "dropout",
    "0",
    parsers.number("dropout", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "Rate of dropout between layers.",
  )
  single(
    "dropout_mask",
    "step",
    parsers.choice("dropout_mask", DROPOUT_MASKS),
    "Dropout's mask: step, a fresh one at every time step; sequence, one for all time.",
  )
  parsers.define_sizes(
    "hidden_sizes", "Widths of feed-forward layers between the recurrent ones and the readout"
  )
  flags.adopt_module_key_flags(parsers)  # so that --help shows them


def given() -> Layers:
  """What the flags say."""
  values: dict[str, Any] = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Layers)}
  return Layers(**values)


def make_cells(layers: Layers) -> list[Cell]:
  """The cell of each layer.

  Residual and normalised layers are y = x + f(LN(x)). The first layer, which reads the network's
  input and may read tokens, is neither.
  """
  cells = []
  for i in range(layers.depth):
    cell = make_cell(layers.cell, layers.hidden_size)
    if layers.zoneout > 0:
      cell = zoneout(cell, layers.zoneout)
    if layers.layer_norm and i > 0:
      cell = layer_norm(cell)
    if layers.residual and i > 0:
      cell = residual(cell)
    cells.append(cell)
  return cells


def check_memory(layers: Layers, length_flag: str, length: int, batch_size: int) -> None:
  """Refuses sizes at which the least that a training must hold would not fit into memory.

  Args:
    layers: of the network.
    length_flag: name of the flag that says how long sequences are.
    length: of sequences.
    batch_size: how many of them.
  Raises:
    ValueError: naming the flags.
  """
  top = (layers.hidden_size, *layers.hidden_sizes)
  params = layers.depth * layers.hidden_size**2 + sum(a * b for a, b in itertools.pairwise(top))
  carries = layers.depth * length * batch_size * layers.hidden_size
  needed = 4 * (params + carries)
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if needed > memory:
    raise ValueError(
      f"--hidden_size, --hidden_sizes, --depth, --{length_flag} and --batch_size must fit into "
      f"this machine's {memory / 2**30:.0f} GiB, got what needs {needed / 2**30:.0f} GiB at least."
    )


def options(layers: Layers) -> dict[str, Any]:
  """What else `DeepRNN` and `BidirectionalRNN` are given."""
  return {
    "dropout": layers.dropout,
    "dropout_mask": layers.dropout_mask,
    "hidden_sizes": layers.hidden_sizes,
  }
