"""Hidden sizes at which cells meet a parameter budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax

from rnn_jax.tasks import Task
from rnn_jax.types import Cell, output_size

TOLERANCE = 0.05  # relative to the budget

_GAP = 1024  # hidden sizes tried in a row if a cell refuses them


def count_params(cells: Sequence[Cell], input_size: int, *, ways: int = 1, merged: int = 1) -> int:
  """Returns the number of entries in the params of all layers, without computing them.

    Σ_l ways · |params_l|      layer 1 reads D inputs, each other layer `merged` times the output
                               size of the layer below

  Args:
    cells: the cell of each layer, bottom layer first.
    input_size: D, the input size of the first layer.
    ways: number of directions in which each layer reads, each with its own params.
    merged: number of outputs of a layer that are concatenated as the next one's input.
  """
  total = 0
  for cell in cells:
    number, width = _sizes(cell, input_size)
    total, input_size = total + ways * number, merged * width
  return total


@functools.lru_cache(maxsize=4)  # the same cell, layer after layer
def _sizes(cell: Cell, input_size: int) -> tuple[int, int]:
  """Returns (number of entries of the params, output size)."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  return number, output_size(cell, params, input_size)


def matched_width(count: Callable[[int], int], wanted: int) -> tuple[int, int]:
  """Returns the hidden size whose number of params is nearest to a budget.

  It is found by doubling and bisection, since the number of params grows with the hidden size.

  Args:
    count: hidden size -> number of params. It raises a ValueError for hidden sizes that the cell
      refuses, such as those that are not a multiple of some number.
    wanted: the budget.
  Returns:
    (hidden size, its number of params). If two are equally near, the smaller.
  Raises:
    ValueError: the error of `count`, if it refuses every hidden size.
  """
  count = functools.cache(count)

  @functools.cache
  def at_least(width: int) -> tuple[int, int]:
    """Returns the first accepted hidden size from `width` on, and its number of params."""
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
  # Neighbors among the accepted hidden sizes; the second is the first that reaches the budget.
  candidates = [at_least(width) for width in (low, high) if width > 0]
  return min(candidates, key=lambda candidate: abs(candidate[1] - wanted))


def check_near(width: int, number: int, wanted: int, network: str) -> None:
  """Refuses a number of params that is too far from the budget.

  Args:
    width, number: result of `matched_width`.
    wanted: the budget.
    network: the network, as text for the error.
  Raises:
    ValueError: the number differs from the budget by more than `TOLERANCE`.
  """
  if abs(number - wanted) > TOLERANCE * wanted:
    raise ValueError(
      f"--match_params must be met within {TOLERANCE:.0%} by some hidden size; the nearest one of "
      f"{network} is {width}, with {number} params, got {wanted}."
    )


def task_input_size(task: Task) -> int:
  """Returns the input size of the first layer: of one-hot tokens, or of vectors."""
  if task.vocabulary_size is not None:
    return task.vocabulary_size
  return jax.eval_shape(task.batch, task.data, jax.random.key(0)).xs.shape[-1]
