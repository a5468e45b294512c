"""A sequence problem's settings, and the problems and target orders to choose from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from experiments.networks.layers import Layers
from rnn_jax.tasks import Task, reverse, sort

PROBLEMS: Mapping[str, str] = {
  "one_to_one": "from the image of a digit, as one vector, to its class",
  "one_to_many": "from the image of a digit to its English name, letter by letter",
  "many_to_one": "from the image of a digit, pixel by pixel, to its class",
  "many_to_many": "from each character of a line of Python to the kind of token it belongs to",
  "encoder_decoder": "from a sequence of symbols to the same symbols in another order",
}
ORDERS: Mapping[str, Callable[..., Task]] = {"reverse": reverse, "sort": sort}
LENGTHS: Mapping[str, int] = {"many_to_one": 64, "many_to_many": 64, "encoder_decoder": 10}
ONE_WAY = "none"


@dataclasses.dataclass(frozen=True)
class Settings:
  """A sequence problem's settings: everything that determines its result.

  The names of the fields are the names of the flags, and keys in result.json.

  Attributes:
    problem: name of the problem.
    corpus: `stdlib`, or the path of a Python file.
    order: order in which the decoder generates the symbols, `reverse` or `sort`.
    sequence_length: length of the longest sequence; None for the problem's default.
    bidirectional: how the outputs of both directions are merged, `concat` or `sum`; `none` to read
      forward only.
    pooled: whether the network classifies the mean over all steps instead of the last step.
    learned_carry: whether each layer's initial carry is learned.
    truncation: number of steps after which backpropagation through time is cut; None for full
      backpropagation.
    batch_size: number of sequences in a batch.
    steps: number of updates.
    learning_rate: learning rate of Adam.
    clip_norm: largest norm of the gradient; None for no clipping.
    seed: random seed of params, batches, and dropout and zoneout masks.
    layers: settings of the network's layers; an encoder and a decoder each have such layers.
  """

  problem: str
  corpus: str
  order: str
  sequence_length: int | None
  bidirectional: str
  pooled: bool
  learned_carry: bool
  truncation: int | None
  batch_size: int
  steps: int
  learning_rate: float
  clip_norm: float | None
  seed: int
  layers: Layers

  @property
  def length(self) -> int:
    """The length of the longest sequence, in time steps, with the problem's default filled in."""
    return self.sequence_length or LENGTHS.get(self.problem, 1)

  @property
  def is_bidirectional(self) -> bool:
    """Whether sequences are read in both directions."""
    return self.bidirectional != ONE_WAY
