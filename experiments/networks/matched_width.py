"""Hidden sizes at which the networks of different cells meet the same parameter budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from rnn_jax.tasks import Task
from rnn_jax.types import Cell, output_size

# The largest accepted difference from the budget, as a fraction of the budget.
TOLERANCE = 0.05

# The number of consecutive hidden sizes to try before giving up on a cell that rejects them.
_GAP = 1024

# The number of budgets to try before proposing none.
_MOST_BUDGETS = 1000

# Returns the number of params for a hidden size, or raises a ValueError.
Count = Callable[[int], int]


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


@functools.lru_cache(maxsize=4096)  # the networks of different tasks share their upper layers
def _sizes(cell: Cell, input_size: int) -> tuple[int, int]:
  """Returns (number of entries in the cell's params, output size of the cell)."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  return number, output_size(cell, params, input_size)


def matched_width(count: Count, wanted: int) -> tuple[int, int]:
  """Returns the hidden size whose number of params is nearest to a budget.

  The number of params must grow with the hidden size.

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
  below, above = _around(count, wanted)
  candidates = [above] if below is None else [below, above]
  return min(candidates, key=lambda candidate: abs(candidate[1] - wanted))


def _around(count: Count, wanted: int) -> tuple[tuple[int, int] | None, tuple[int, int]]:
  """Returns the hidden sizes just below and just above a budget, each with its number of params.

  Doubles the hidden size from √budget until the budget is reached. Then interpolates √params
  linearly, since params grow about quadratically, and bisects at every step. Arguments and errors
  are those of `matched_width`.

  Returns:
    (the largest hidden size with fewer params than the budget, or None if there is none; the
    smallest one that reaches the budget).
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

  def root(width: int) -> float:
    return math.sqrt(at_least(width)[1]) if width > 0 else 0.0

  low, high = 0, max(1, math.isqrt(wanted))
  while at_least(high)[1] < wanted:
    low, high = high, 2 * high
  while high - low > 1:
    share = (math.sqrt(wanted) - root(low)) / (root(high) - root(low))
    guess = low + math.ceil(share * (high - low))
    for width in (guess, guess - 1, (low + high) // 2):
      if low < width < high:
        low, high = (width, high) if at_least(width)[1] < wanted else (low, width)
  # Now `at_least(high)` is the smallest accepted hidden size that reaches the budget, and
  # `at_least(low)` is the next smaller accepted one. If `low` is 0, there is no smaller one.
  return at_least(low) if low > 0 else None, at_least(high)


class Matched(NamedTuple):
  """A network whose hidden size was chosen by `matched_width`.

  Attributes:
    network: its name, for errors.
    count: returns its number of params for a hidden size, as in `matched_width`.
    width, number: its hidden size, and its number of params.
  """

  network: str
  count: Count
  width: int
  number: int


def check_near(found: Sequence[Matched], wanted: int) -> None:
  """Checks that the numbers of params of all networks are near enough to the budget.

  Args:
    found: the networks.
    wanted: the budget.
  Raises:
    ValueError: if a number differs from the budget by more than `TOLERANCE`. The message proposes
      the nearest budget that all networks meet.
  """
  for network, _, width, number in found:
    if not _is_near(number, wanted):
      budget = nearest_budget([each.count for each in found], wanted)
      meets = "it meets" if len(found) == 1 else f"all {len(found)} networks meet"
      proposal = f" The nearest budget that {meets} is --match_params={budget}." if budget else ""
      raise ValueError(
        f"--match_params must be met within {TOLERANCE:.0%} by some hidden size; the nearest one "
        f"of {network} is {width}, with {number} params, got {wanted}.{proposal}"
      )


def _is_near(number: int, wanted: int) -> bool:
  return abs(number - wanted) <= TOLERANCE * wanted


def nearest_budget(counts: Sequence[Count], wanted: int) -> int | None:
  """Returns the budget nearest to `wanted` that all networks meet within `TOLERANCE`.

  Args:
    counts: for each network, a function like the argument `count` of `matched_width`.
    wanted: the budget.
  Returns:
    The budget, or None if none was found. Of two that are equally near, the smaller one is
    returned.
  """
  counts = [functools.cache(count) for count in counts]
  budgets = [_next_budget(counts, wanted, upward) for upward in (False, True)]
  return min((b for b in budgets if b is not None), key=lambda b: abs(b - wanted), default=None)


def _next_budget(counts: Sequence[Count], wanted: int, upward: bool) -> int | None:
  """Returns the first budget from `wanted` on, upward or downward, that all networks meet.

  A hidden size with n params meets the budgets from n / (1 + TOLERANCE) to n / (1 − TOLERANCE). So
  a budget that a network misses is followed by the nearest end of the next such interval.
  """
  budget = wanted
  for _ in range(_MOST_BUDGETS):
    following = []
    for count in counts:
      below, above = _around(count, budget)
      numbers = [size[1] for size in (below, above) if size is not None]
      if any(_is_near(number, budget) for number in numbers):
        continue
      if upward:
        following.append(max(budget + 1, math.ceil(above[1] / (1 + TOLERANCE))))
      elif below is not None:
        following.append(min(budget - 1, math.floor(below[1] / (1 - TOLERANCE))))
      else:
        return None
    if not following:
      return budget
    budget = max(following) if upward else min(following)
  return None


def task_input_size(task: Task) -> int:
  """Returns the input size of a network's first layer for this task.

  If the task's inputs are tokens, it is the vocabulary size, because tokens are one-hot encoded.
  Otherwise it is the size of the input vectors.
  """
  if task.vocabulary_size is not None:
    return task.vocabulary_size
  return jax.eval_shape(task.batch, task.data, jax.random.key(0)).xs.shape[-1]
