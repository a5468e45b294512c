"""Proofs, from a step's jaxpr, that an array is read before its buffer is overwritten.

In every function, `equations` are equations of the step's jaxpr, in the order of the jaxpr.
Variables are compared by identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

Atom = Var | Literal

# XLA:CPU stores the results of these primitives. It fuses every other operation into its consumers,
# which recompute it from its operands at each use.
_STORED = frozenset({"dot_general", "exp", "log", "log1p", "logistic", "reduce_sum", "tanh"})


def reads_before(
  equations: Sequence[JaxprEqn], old: Atom, new: Atom, outputs: Iterable[Atom]
) -> bool:
  """Returns whether XLA is guaranteed to read `old` before `new` overwrites its buffer.

  XLA orders operations by data dependence alone. So the order is guaranteed if every operation that
  reads `old` is an ancestor of `new`. If an operation that reads `old` is fused into its consumers,
  then `old` is read where the consumers run, so the consumers must be ancestors of `new`.

  Args:
    equations: the step's equations.
    old: the variable whose buffer is overwritten.
    new: the variable that overwrites it.
    outputs: all outputs of the step, including `new`.
  """
  ancestors = ancestors_of(equations, [new])
  readers = {id(old)}  # ids of the variables whose evaluation reads `old`
  for equation in equations:
    reads = readers.intersection(map(id, equation.invars))
    if not reads:
      continue
    results = set(map(id, equation.outvars))
    if not _is_stored(equation):
      readers |= results
    elif not results & ancestors and not (_is_product(equation) and reads == {id(new)}):
      # This operation may run after the write, when the buffer no longer holds `old`. The condition
      # excepts a matrix product that depends on `old` only through `new`, because such a product
      # reads `new` from the buffer.
      return False
  return all(v is new or id(v) not in readers for v in outputs)


def split_at(
  equations: Sequence[JaxprEqn], variables: Iterable[Atom]
) -> tuple[list[JaxprEqn], list[JaxprEqn]]:
  """Returns (the equations that compute `variables`, all other equations)."""
  needed = ancestors_of(equations, variables)
  leading: list[JaxprEqn] = []
  others: list[JaxprEqn] = []
  for equation in equations:
    leads = not needed.isdisjoint(map(id, equation.outvars))
    (leading if leads else others).append(equation)
  return leading, others


def ancestors_of(equations: Sequence[JaxprEqn], variables: Iterable[Atom]) -> set[int]:
  """Returns the ids of `variables` and of all variables that they are computed from."""
  found = set(map(id, variables))
  for equation in reversed(equations):
    if not found.isdisjoint(map(id, equation.outvars)):
      found.update(map(id, equation.invars))
  return found


def descendants_of(jaxpr: Jaxpr, variables: Iterable[Atom]) -> set[int]:
  """Returns the ids of `variables` and of all variables that are computed from them.

  The search enters jitted functions, since a result of a function may depend on only some of the
  function's arguments.
  """
  return _descendants(jaxpr, set(map(id, variables)))


def _descendants(jaxpr: Jaxpr, found: set[int]) -> set[int]:
  for equation in jaxpr.eqns:
    if equation.primitive.name == "jit":
      inner = equation.params["jaxpr"].jaxpr
      arguments = zip(inner.invars, equation.invars, strict=True)
      inside = _descendants(inner, {id(v) for v, given in arguments if id(given) in found})
      results = zip(inner.outvars, equation.outvars, strict=True)
      found.update(id(v) for result, v in results if id(result) in inside)
    elif not found.isdisjoint(map(id, equation.invars)):
      found.update(map(id, equation.outvars))
  return found


def _is_product(equation: JaxprEqn) -> bool:
  return equation.primitive.name == "dot_general"


def _is_stored(equation: JaxprEqn) -> bool:
  inner = equation.params.get("jaxpr")
  if inner is None:
    return equation.primitive.name in _STORED
  return any(_is_stored(e) for e in inner.eqns)
