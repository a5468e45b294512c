"""Finds the scans in a traced program, and describes them.

A traced program is a jaxpr, i.e. a list of equations. A `jax.lax.scan` is a single equation, whose
body is another jaxpr.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from rnn_jax import time_loop
from rnn_jax._jaxprs import CALLS, called, is_variable, without_calls

# Why scans inside these equations are not measured.
_REASONS = {
  primitives.scan_p: "it is inside another scan; pass the loss of one of that scan's iterations",
  primitives.while_p: "it is inside a while loop",
  primitives.cond_p: "it is inside a cond or switch",
  primitives.custom_vjp_call_p: "it is inside a function with its own backward pass (custom_vjp)",
  primitives.custom_jvp_call_p: "it is inside a function with its own derivative (custom_jvp)",
}
_REASON_OF_UNROLL = (
  "rnn_jax.unroll has its own backward pass; pass probe=gradient_probe(...) to unroll, or "
  "forward_mode=True so that this scan is measured"
)

_JAX = Path(jax.__file__).parent
_LIBRARY = Path(time_loop.__file__).parents[1]
_PYTHON = Path(sysconfig.get_path("stdlib"))


class Scan(NamedTuple):
  """A scan of a traced program.

  Attributes:
    equation: its equation.
    body: its body, in which calls are inlined, to reveal how the outputs depend on the new carry.
      A `jax.checkpoint` that returns no new carry is kept.
    num_carry: number of leaves of its carry.
    checkpoint: the options of an inlined `jax.checkpoint`; None if there was none.
    scope: the names of the enclosing modules and named scopes.
  """

  equation: core.JaxprEqn
  body: core.ClosedJaxpr
  num_carry: int
  checkpoint: dict[str, Any] | None
  scope: str


def is_inexact(a: Any) -> bool:
  """Returns whether an array, or the type of a variable, is real or complex."""
  return jnp.issubdtype(a.dtype, np.inexact)


# Finding scans


def find_scans(jaxpr: core.Jaxpr, scope: str = "") -> Iterator[Scan]:
  """Yields the scans that can be measured, in order of evaluation.

  Args:
    jaxpr: the program.
    scope: the names of the modules and named scopes that enclose the program.
  """
  for equation in jaxpr.eqns:
    if has_gradient(equation):
      yield _scan(equation, _scope(equation, scope))
    elif equation.primitive in CALLS:
      yield from find_scans(called(equation)[0], _scope(equation, scope))


def skipped_scans(jaxpr: core.Jaxpr, scope: str = "", reason: str = "") -> Iterator[str]:
  """Yields, for each scan that cannot be measured, a message that says where it is and why.

  Args:
    jaxpr: the program.
    scope: the names of the modules and named scopes that enclose the program.
    reason: why scans in this program cannot be measured; empty if they can.
  """
  for equation in jaxpr.eqns:
    inside = _scope(equation, scope)
    if reason and has_gradient(equation):
      yield f"{place(equation, inside)}: {_reason_of_unroll(equation, reason)}"
    inner = reason
    if not reason and equation.primitive not in CALLS:
      inner = _REASONS.get(equation.primitive, f"it is inside {equation.primitive}")
    for body in core.jaxprs_in_params(equation.params):
      yield from skipped_scans(body, inside, inner)


def _reason_of_unroll(equation: core.JaxprEqn, reason: str) -> str:
  """Returns the given reason, or a more specific one for a scan of `rnn_jax.unroll`."""
  in_unroll = any(_LIBRARY / "time_loop" in Path(f.file_name).parents for f in _frames(equation))
  own_backward = reason == _REASONS[primitives.custom_vjp_call_p]
  return _REASON_OF_UNROLL if in_unroll and own_backward else reason


def has_gradient(equation: core.JaxprEqn) -> bool:
  """Returns whether an equation is a scan whose carry has a real or complex leaf."""
  return equation.primitive is primitives.scan_p and any(
    is_inexact(var.aval) for var in equation.outvars[: _num_carry(equation)]
  )


def _num_carry(equation: core.JaxprEqn) -> int:
  """Returns the number of leaves of a scan's carry.

  A leaf of the carry has the same shape in the results of the scan and of its body. In the results
  of the scan, ys have one more axis.
  """
  pairs = zip(equation.outvars, equation.params["jaxpr"].jaxpr.outvars, strict=True)
  return sum(_shape(out) == _shape(result) for out, result in pairs)


def _shape(atom: Any) -> tuple[int, ...]:
  return atom.aval.shape


def checkpoint_options(equation: core.JaxprEqn) -> dict[str, Any]:
  """Returns the options of a `jax.checkpoint`."""
  return {name: equation.params[name] for name in ("policy", "prevent_cse")}


def _scan(equation: core.JaxprEqn, scope: str) -> Scan:
  num_carry = _num_carry(equation)
  body, checkpoint = equation.params["jaxpr"], None
  while True:
    carried = carried_by(body.jaxpr, num_carry)
    calls = [
      e
      for e in body.jaxpr.eqns
      if e.primitive in CALLS
      and (e.primitive is not primitives.remat_p or not carried.keys().isdisjoint(e.outvars))
    ]
    if not calls:
      return Scan(equation, body, num_carry, checkpoint, scope)
    for call in calls:
      if call.primitive is primitives.remat_p:
        checkpoint = checkpoint_options(call)
    body = without_calls(body, calls)


# Describing a scan


class Place(NamedTuple):
  """The location of a scan in the source code, and its number of steps."""

  source: str
  scope: str
  length: int

  def __str__(self) -> str:
    """Returns the location as text, for messages."""
    scope = f", in {self.scope}" if self.scope else ""
    return f"scan of {self.length} steps at {self.source}{scope}"


def place(equation: core.JaxprEqn, scope: str) -> Place:
  """Returns a scan's location.

  The source is the innermost line of code outside the standard library, installed packages and this
  library; if there is none, it is the innermost line outside JAX.
  """
  frames = [f for f in _frames(equation) if not Path(f.file_name).is_relative_to(_JAX)]
  own = [f for f in frames if not _is_library(Path(f.file_name))]
  frame = next(iter(own or frames), None)
  source = f"{frame.file_name}:{frame.line_num} ({frame.function_name})" if frame else "unknown"
  return Place(source, scope, equation.params["length"])


def leaves_of(scan: Scan) -> list[tuple[str, jax.ShapeDtypeStruct]]:
  """Returns name, shape and dtype of each real or complex leaf of a scan's carry."""
  original = scan.equation.params["jaxpr"].jaxpr
  first = len(original.invars) - num_xs(scan.equation) - scan.num_carry
  names = original.debug_info.arg_names or [""] * len(original.invars)
  leaves = []
  for i, var in enumerate(scan.equation.outvars[: scan.num_carry]):
    aval: Any = var.aval
    if is_inexact(aval):
      name = names[first + i] or f"carry[{i}]"
      leaves.append((name, jax.ShapeDtypeStruct(aval.shape, aval.dtype)))
  return leaves


def includes_outputs(scan: Scan) -> bool:
  """Returns whether dL/dh_t includes the outputs that step t itself computes from h_t.

  It is False if no output reads the new carry. It is also False if one equation, such as an inner
  scan, returns both the new carry and another value that the outputs use, because that equation
  hides how this value depends on the new carry.
  """
  jaxpr = scan.body.jaxpr
  carried = carried_by(jaxpr, scan.num_carry).keys()
  outputs = set(filter(is_variable, jaxpr.outvars[scan.num_carry :]))
  is_read = not outputs or not carried.isdisjoint(outputs)
  used = outputs - carried
  for equation in reversed(jaxpr.eqns):
    results = set(equation.outvars)
    if not results.isdisjoint(used):
      if not results.isdisjoint(carried):
        return False
      read_here = set(filter(is_variable, equation.invars))
      is_read = is_read or not read_here.isdisjoint(carried)
      used |= read_here - carried
  return is_read


class Case(NamedTuple):
  """One of the two values between which an equation chooses."""

  equation: core.JaxprEqn
  position: int


def carried_by(jaxpr: core.Jaxpr, num_carry: int) -> dict[Any, int | Case]:
  """Returns the variables of a scan's body whose value becomes a leaf of the new carry.

  If a mask selects a leaf, as in `h = jnp.where(mask, new, h)`, `new` is included, too, because
  outputs may read it instead of h. The body's inputs, and values that do not depend on them, are
  excluded, because the step itself reads these.

  Returns:
    For each variable, the index of the leaf, or the equation that selects it by a mask.
  """
  computed: set[Any] = set()
  for equation in jaxpr.eqns:
    if not (computed | set(jaxpr.invars)).isdisjoint(filter(is_variable, equation.invars)):
      computed |= set(equation.outvars)
  definitions = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
  found: dict[Any, int | Case] = {}
  pending: list[tuple[Any, int | Case]] = [
    (var, i) for i, var in enumerate(jaxpr.outvars[:num_carry]) if is_inexact(var.aval)
  ]
  while pending:
    var, origin = pending.pop(0)
    if not is_variable(var) or var not in computed or var in found:
      continue
    found[var] = origin
    equation = definitions[var]
    if equation.primitive is primitives.select_n_p and len(equation.invars) == 3:
      pending += [(equation.invars[k], Case(equation, k)) for k in (1, 2)]
  return found


def num_xs(equation: core.JaxprEqn) -> int:
  """Returns the number of arrays in the scan's xs."""
  pairs = zip(equation.invars, equation.params["jaxpr"].jaxpr.invars, strict=True)
  return sum(_shape(given) != _shape(var) for given, var in pairs)


def _scope(equation: core.JaxprEqn, outer: str) -> str:
  """Returns the names of the modules and named scopes that enclose an equation."""
  inner = str(equation.source_info.name_stack).replace("vmap()", "").strip("/")
  return "/".join(filter(None, (outer, inner)))


def _frames(equation: core.JaxprEqn) -> list[Any]:
  """Returns the stack frames from which an equation was traced, innermost first."""
  traceback = equation.source_info.traceback
  return [] if traceback is None else list(traceback.frames)


def _is_library(file: Path) -> bool:
  """Returns whether a file is part of the standard library, a package, or this library."""
  installed = {"site-packages", "dist-packages"} & set(file.parts)
  return bool(installed) or any(file.is_relative_to(top) for top in (_PYTHON, _LIBRARY))
