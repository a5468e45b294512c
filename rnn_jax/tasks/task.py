"""A task: batches from a key, a loss, and a baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Targets = Int[Array, "T B"] | Float[Array, "T B O"]


class Batch(NamedTuple):
  """One batch, time-major.

  Attributes:
    xs: [T, B, D], or tokens [T, B]; `DecoderInputs` for decoders.
    targets: [T, B] classes, or [T, B, O] values.
    mask: [T, B] bool, the steps whose loss counts.
    lengths: [B] integers, number of valid steps of each sequence; None if all steps are valid.
  """

  xs: PyTree
  targets: Targets
  mask: Bool[Array, "T B"]
  lengths: Int[Array, " B"] | None = None


class Task(NamedTuple):
  """A sequence problem.

  Attributes:
    data: arrays from which batches are drawn; `()` if batches depend on the key alone.
    batch: `(data, key) -> Batch`, pure.
    loss: `(outputs [..., O], targets) -> [...]`, per step.
    unit: of the loss, for display.
    baseline: mean loss of the best guess that knows the frequency of each answer at each position
      of a sequence, and nothing else about the sequence. A model that learns must get below it.
    output_size: O, width of the network's output.
    vocabulary_size: number of tokens; None if xs are vectors.
  """

  data: PyTree
  batch: Callable[[PyTree, Key[Array, ""]], Batch]
  loss: Callable[[Float[Array, "*steps O"], Array], Float[Array, "*steps"]]
  unit: str
  baseline: float
  output_size: int
  vocabulary_size: int | None
