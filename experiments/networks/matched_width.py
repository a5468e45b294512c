"""Hidden sizes at which the networks of different cells meet the same parameter budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax

from rnn_jax.tasks import Task
from rnn_jax.types import Cell, output_size

# The largest accepted difference from the budget, as a fraction of the budget.
TOLERANCE = 0.05

# The number of consecutive hidden sizes to try before giving up on a cell that rejects them.
_GAP = 1024


def count_params(cells: Sequence[Cell], input_size: int, *, ways: int = 1, merged: int = 1) -> int:
  """Returns the number of entries in the params of all layers, without allocating the params.

    Σ_l ways · |params_l|

  |params_l| is the number of entries in the params of cell l.

  Args:
    cells: the cell of each layer, bottom layer first.
    input_size: input size of the first layer.
    ways: number of directions in which each layer reads the sequence, each with its own params.
    merged: input size of a layer above the first, divided by the output size of the cell below it:
      2 if the outputs of two directions are concatenated, otherwise 1.
  """
  total = 0
  for cell in cells:
    number, width = _sizes(cell, input_size)
    total, input_size = total + ways * number, merged * width
  return total


@functools.lru_cache(maxsize=4)  # few entries suffice, because most layers share one cell
def _sizes(cell: Cell, input_size: int) -> tuple[int, int]:
  """Returns (number of entries in the cell's params, output size of the cell)."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  return number, output_size(cell, params, input_size)


def matched_width(count: Callable[[int], int], wanted: int) -> tuple[int, int]:
  """Returns the hidden size whose number of params is nearest to a budget.

  Doubles the hidden size until the budget is reached, then bisects. The number of params must grow
  with the hidden size.

  Args:
    count: returns the number of params for a hidden size. It raises a ValueError for hidden sizes
      that the cell rejects, such as those that are not a multiple of some number.
    wanted: the budget, as a number of params.
  Returns:
    (hidden size, its number of params). If two hidden sizes are equally near, the smaller one is
    returned.
  Raises:
    ValueError: the first error that `count` raised, if it rejects 1024 consecutive hidden sizes.
  """
  count = functools.cache(count)

  @functools.cache
  def at_least(width: int) -> tuple[int, int]:
    """Returns (the smallest hidden size ≥ `width` that `count` accepts, its number of params)."""
    refusal: ValueError | None = None
    for taken in range(width, width + _GAP):
      try:
        return taken, count(taken)
      except ValueError as error:
        refusal = refusal or error
    raise refusal or ValueError(f"No hidden size from {width} on.")

  low, high = 0, 1
  while at_least(high)[1] < wanted:
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if at_least(middle)[1] < wanted else (low, middle)
  # Now `at_least(high)` is the smallest accepted hidden size that reaches the budget, and
  # `at_least(low)` is the next smaller accepted one. If `low` is 0, there is no smaller one.
  candidates = [at_least(width) for width in (low, high) if width > 0]
  return min(candidates, key=lambda candidate: abs(candidate[1] - wanted))


def check_near(width: int, number: int, wanted: int, network: str) -> None:
  """Checks that a network's number of params is near enough to the budget.

  Args:
    width, number: hidden size and number of params, as returned by `matched_width`.
    wanted: the budget.
    network: name of the network for the error message.
  Raises:
    ValueError: if the number differs from the budget by more than `TOLERANCE`.
  """
  if abs(number - wanted) > TOLERANCE * wanted:
    raise ValueError(
      f"--match_params must be met within {TOLERANCE:.0%} by some hidden size; the nearest one of "
      f"{network} is {width}, with {number} params, got {wanted}."
    )


def task_input_size(task: Task) -> int:
  """Returns the input size of a network's first layer for this task.

  If the task's inputs are tokens, it is the vocabulary size, because tokens are one-hot encoded.
  Otherwise it is the size of the input vectors.
  """
  if task.vocabulary_size is not None:
    return task.vocabulary_size
  return jax.eval_shape(task.batch, task.data, jax.random.key(0)).xs.shape[-1]
