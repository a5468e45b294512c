"""Whether a compiled step reads an array before it overwrites it, told from the step's trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# XLA:CPU computes all others again wherever they are read, out of what they are made of.
_COMPUTED_ONCE = {"dot_general", "exp", "log", "log1p", "logistic", "reduce_sum", "tanh"}


def reads_before(equations: Sequence[Any], old: Any, new: Any, made: Sequence[Any]) -> bool:
  """Whether all reading of `old` is over when `new` is there, to take its place.

  XLA goes by what is computed from what. So it is where all that reads `old` leads to `new`, be it
  by way of what is computed again elsewhere.

  Args:
    equations: of the step, in order.
    old, new: variables.
    made: variables that the step gives, `new` among them.
  """
  before = _leading_to(equations, [new])
  reading = {id(old)}
  for equation in equations:
    reads = {id(v) for v in equation.invars} & reading
    results = {id(v) for v in equation.outvars}
    if reads and not _computed_once(equation):
      reading |= results
    elif reads and not results & before and not _is_product_of(new, equation, reads):
      return False
  return not any(id(v) in reading - {id(new)} for v in made)


def split_at(equations: Sequence[Any], made: Sequence[Any]) -> tuple[list[Any], list[Any]]:
  """The equations that lead to the variables `made`, and the others."""
  needed = _leading_to(equations, made)
  leading: list[Any] = []
  others: list[Any] = []
  for equation in equations:
    leads = any(id(v) in needed for v in equation.outvars)
    (leading if leads else others).append(equation)
  return leading, others


def _is_product_of(new: Any, equation: Any, reads: set[int]) -> bool:
  """Whether it reads `new` alone, as a product does from where it is."""
  return equation.primitive.name == "dot_general" and reads == {id(new)}


def _computed_once(equation: Any) -> bool:
  inner = equation.params.get("jaxpr")
  if inner is None:
    return equation.primitive.name in _COMPUTED_ONCE
  return any(_computed_once(e) for e in inner.eqns)


def _leading_to(equations: Sequence[Any], variables: Sequence[Any]) -> set[int]:
  """Ids of the variables that these are made of, and of these."""
  found = set(map(id, variables))
  for equation in reversed(equations):
    if any(id(v) in found for v in equation.outvars):
      found.update(map(id, equation.invars))
  return found
