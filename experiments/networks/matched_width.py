"""Widths at which the recurrent layers of different cells hold as many numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax

from rnn_jax.cells.output_size import output_size
from rnn_jax.tasks import Task
from rnn_jax.types import Cell

TOLERANCE = 0.05  # of the number that is asked for

_GAP = 1024  # the most widths in a row that are tried where a cell refuses them


def count_params(cells: Sequence[Cell], input_size: int, *, ways: int = 1, merged: int = 1) -> int:
  """Entries of the params of all layers' cells; nothing is computed.

    Σ_l ways · |params_l|      layer 1 reads D inputs, the others `merged` times what the one below
                               gives

  Args:
    cells: the cell of each layer, the first nearest the input.
    input_size: D, of the first layer.
    ways: directions in which each layer reads, with params of their own.
    merged: outputs of a layer that the next one reads side by side.
  """
  total = 0
  for cell in cells:
    number, width = _sizes(cell, input_size)
    total, input_size = total + ways * number, merged * width
  return total


@functools.lru_cache(maxsize=4)  # the same cell, layer after layer
def _sizes(cell: Cell, input_size: int) -> tuple[int, int]:
  """(entries of the params, width of the output)."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  return number, output_size(cell, params, input_size)


def matched_width(count: Callable[[int], int], wanted: int) -> tuple[int, int]:
  """The width whose number of params is nearest to the one that is wanted.

  By doubling and bisection, since more units have more params.

  Args:
    count: `width -> number of params`; a ValueError says that there is no such width, as where a
      cell wants a multiple of something.
    wanted: number of params.
  Returns:
    (width, its number of params), the smaller width of two that are as near.
  Raises:
    ValueError: by `count`, where it refuses every width.
  """
  count = functools.cache(count)

  @functools.cache
  def at_least(width: int) -> tuple[int, int]:
    """The first width from there that is not refused, and its number."""
    refusal: ValueError | None = None
    for taken in range(width, width + _GAP):
      try:
        return taken, count(taken)
      except ValueError as error:
        refusal = refusal or error
    raise refusal or ValueError(f"no width from {width} on")

  low, high = 0, 1
  while at_least(high)[1] < wanted:
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if at_least(middle)[1] < wanted else (low, middle)
  # Neighbours among the widths that are not refused, the second the first that is large enough.
  candidates = [at_least(width) for width in (low, high) if width > 0]
  return min(candidates, key=lambda candidate: abs(candidate[1] - wanted))


def check_near(width: int, number: int, wanted: int, whose: str) -> None:
  """Refuses a nearest number of params that is too far off.

  Args:
    width, number: from `matched_width`.
    wanted: as it was given to that.
    whose: network, in the words of an error.
  Raises:
    ValueError: it is more than `TOLERANCE` off.
  """
  if abs(number - wanted) > TOLERANCE * wanted:
    raise ValueError(
      f"--match_params must be met by some width within {TOLERANCE:.0%}; the nearest width of "
      f"{whose} is {width}, with {number} params, got {wanted}."
    )


def task_input_size(task: Task) -> int:
  """What the first layer reads: one-hot tokens, or vectors."""
  if task.vocabulary_size is not None:
    return task.vocabulary_size
  return jax.eval_shape(task.batch, task.data, jax.random.key(0)).xs.shape[-1]
