"""What is learned: batches from a key, a loss, and the baseline that it must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rnn_jax.types import Array


class Batch(NamedTuple):
  """One batch, time-major.

  Attributes:
    xs: [T, B, D], or tokens [T, B]; Written, for networks that write.
    targets: [T, B] classes, or [T, B, O] values.
    mask: [T, B] bool, the steps whose loss counts.
    lengths: [B] integers, the valid steps of each sequence; None where all have all.
  """

  xs: Any
  targets: Array
  mask: Array
  lengths: Array | None = None


class Written(NamedTuple):
  """What a network reads that writes a sequence: a source, and what it has written so far.

  Attributes:
    source: what the sequence is written from: tokens [T, B] or vectors [T, B, D], or one vector an
      example, [B, D].
    source_lengths: [B] integers, the valid steps of each source; None where all have all, or where
      the source is a vector.
    tokens: [S, B], at each step the token that was written before it: `<eos>`, which is 0, to start
      with, then the target, one step later.
  """

  source: Array
  source_lengths: Array | None
  tokens: Array


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
