"""The types `Task` and `Batch`: a task draws batches from a random key, and has a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Targets = Int[Array, "T B"] | Float[Array, "T B O"] | Bool[Array, "T B O"]


class Batch(NamedTuple):
  """One batch of examples; arrays are time-major.

  Attributes:
    xs: the inputs: vectors [T, B, D], tokens [T, B], or `DecoderInputs` for decoders.
    targets: classes [T, B], values [T, B, O], or labels, bool [T, B, O].
    mask: bool [T, B], True at the steps whose loss counts.
    lengths: integers [B], number of valid steps of each sequence; None if all steps are valid.
  """

  xs: PyTree
  targets: Targets
  mask: Bool[Array, "T B"]
  lengths: Int[Array, " B"] | None = None


class Task(NamedTuple):
  """A sequence problem: how to draw batches, the loss to minimize, and a loss to compare with.

  Attributes:
    data: arrays from which batches are drawn; `()` if batches depend on the key alone.
    held_out: arrays in place of `data`, from which `batch` draws held-out batches. They have
      nothing in common with the training data. `()` if batches depend on the key alone; a held-out
      batch is then one drawn with a key that training never uses.
    batch: pure function `(data, key) -> Batch`, which can be jitted.
    loss: `(outputs [..., O], targets) -> [...]`, the loss of each step.
    unit: unit of the loss, for display.
    baseline: mean loss of a model that ignores the inputs, and predicts only how often each answer
      occurs at a given position of a sequence. A model that uses its inputs has a lower loss.
    output_size: O, width of the network's output.
    vocabulary_size: number of distinct tokens; None if xs are vectors.
  """

  data: PyTree
  held_out: PyTree
  batch: Callable[[PyTree, Key[Array, ""]], Batch]
  loss: Callable[[Float[Array, "*steps O"], Array], Float[Array, "*steps"]]
  unit: str
  baseline: float
  output_size: int
  vocabulary_size: int | None
