"""What is learned: batches from a key, a loss, and the baseline that it must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rnn_jax.types import Array


class Batch(NamedTuple):
  """One batch, time-major.

  Attributes:
    xs: [T, B, D], or tokens [T, B]; `DecoderInputs` for decoders.
    targets: [T, B] classes, or [T, B, O] values.
    mask: [T, B] bool, the steps whose loss counts.
    lengths: [B] integers, the valid steps of each sequence; None where all have all.
  """

  xs: Any
  targets: Array
  mask: Array
  lengths: Array | None = None


class Task(NamedTuple):
  """A sequence problem.

  Attributes:
    data: arrays that batches are drawn from, `()` where they are made from the key alone.
    batch: `(data, key) -> Batch`, pure.
    loss: `(outputs [..., O], targets) -> [...]`, per step.
    unit: of the loss.
    baseline: mean loss of the best guess that knows how often each answer occurs, and where, but
      nothing of the sequence; to be beaten.
    output_size: O, width of the network's output.
    vocabulary_size: number of tokens, where xs are tokens; None where they are vectors.
  """

  data: Any
  batch: Callable[[Any, Array], Batch]
  loss: Callable[[Array, Array], Array]
  unit: str
  baseline: float
  output_size: int
  vocabulary_size: int | None
