"""Jaxprs, the lists of equations to which JAX traces a program: evaluated in parts, and inlined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend import core
from jax.extend.core import primitives

Atom: TypeAlias = core.Var | core.Literal
Environment: TypeAlias = dict[Any, Any]  # {variable: value}

# Equations that only call a jaxpr, and the parameter that holds it.
CALLS = {
  primitives.jit_p: "jaxpr",
  primitives.remat_p: "jaxpr",
  primitives.closed_call_p: "call_jaxpr",
}


def is_variable(atom: Any) -> bool:
  """Returns whether an operand or result of an equation is a variable, and not a literal."""
  return not isinstance(atom, core.Literal)


def read(env: Mapping[Any, Any], atom: Any) -> Any:
  """Returns the value of a variable or literal."""
  return env[atom] if is_variable(atom) else atom.val


def environment(jaxpr: core.Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> Environment:
  """Returns the values of a jaxpr's constants and operands, by variable."""
  return dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))


def called(equation: core.JaxprEqn) -> tuple[core.Jaxpr, Sequence[Any]]:
  """Returns the jaxpr that an equation of `CALLS` calls, and its constants."""
  jaxpr = equation.params[CALLS[equation.primitive]]
  return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())


def part(
  jaxpr: core.Jaxpr,
  operands: Sequence[core.Var],
  equations: Sequence[core.JaxprEqn],
  results: Sequence[Any],
) -> Callable[..., list[Any]]:
  """Returns a function from the values of `operands` to those of `results`.

  Args:
    jaxpr: the program.
    operands: variables of the program.
    equations: the equations of the program that compute the results from the operands, in order.
    results: variables or literals of the program.
  """
  effects = frozenset().union(*(equation.effects for equation in equations))
  alone = jaxpr.replace(
    constvars=[], invars=operands, outvars=results, eqns=equations, effects=effects
  )
  return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))


def run_equation(jaxpr: core.Jaxpr, equation: core.JaxprEqn, env: Environment) -> list[Any]:
  """Returns the results of one equation of a jaxpr, given the values of variables."""
  operands: list[Any] = list(dict.fromkeys(filter(is_variable, equation.invars)))
  return part(jaxpr, operands, [equation], equation.outvars)(*[env[var] for var in operands])


def without_calls(traced: core.ClosedJaxpr, calls: Sequence[core.JaxprEqn]) -> core.ClosedJaxpr:
  """Returns a jaxpr in which the given equations of `CALLS` are replaced by those they call."""
  replaced = set(map(id, calls))

  def evaluate(*operands: Any) -> list[Any]:
    env = environment(traced.jaxpr, traced.consts, operands)
    for equation in traced.jaxpr.eqns:
      if id(equation) in replaced:
        given = [read(env, atom) for atom in equation.invars]
        values = core.jaxpr_as_fun(core.ClosedJaxpr(*called(equation)))(*given)
      else:
        values = run_equation(traced.jaxpr, equation, env)
      env.update(zip(equation.outvars, values, strict=True))
    return [read(env, atom) for atom in traced.jaxpr.outvars]

  operands = [
    jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False))
    for a in traced.in_avals
  ]
  return jax.make_jaxpr(evaluate)(*operands)
