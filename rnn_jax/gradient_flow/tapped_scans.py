"""Runs a traced program and taps the carries of its scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import Array

from rnn_jax._jaxprs import CALLS, called, environment, is_variable, read, run_equation
from rnn_jax.gradient_flow.traced_scans import (
  Case,
  Scan,
  carried_by,
  checkpoint_options,
  find_scans,
  has_gradient,
  is_inexact,
  num_xs,
)
from rnn_jax.probes import tap

Probe: TypeAlias = Sequence[Array]  # one array per real or complex leaf of a scan's carry


def run(
  jaxpr: core.Jaxpr,
  consts: Sequence[Any],
  operands: Sequence[Any],
  scans: Sequence[tuple[Scan, Probe]],
  vectors: bool,
) -> list[Any]:
  """Runs a program and taps the carries of its scans.

  Args:
    jaxpr: the program.
    consts: its constants.
    operands: its operands.
    scans: the program's scans, from `find_scans`, each with its probe.
    vectors: whether the probes' gradients are vectors instead of norms.
  Returns:
    The program's results.
  """
  remaining = list(scans)
  env = environment(jaxpr, consts, operands)
  for equation in jaxpr.eqns:
    given = [read(env, atom) for atom in equation.invars]
    if has_gradient(equation):
      scan, probe = remaining.pop(0)
      values = _run_scan(scan, given, probe, vectors)
    elif equation.primitive in CALLS and (own := list(find_scans(called(equation)[0]))):
      inner, remaining = remaining[: len(own)], remaining[len(own) :]
      values = _run_call(equation, given, inner, vectors)
    else:
      values = run_equation(jaxpr, equation, env)
    env.update(zip(equation.outvars, values, strict=True))
  return [read(env, atom) for atom in jaxpr.outvars]


def _run_call(
  equation: core.JaxprEqn,
  operands: Sequence[Any],
  scans: Sequence[tuple[Scan, Probe]],
  vectors: bool,
) -> list[Any]:
  """Runs an equation of `CALLS` that contains scans."""

  def call(operands: Sequence[Any], probes: Sequence[Probe]) -> list[Any]:
    pairs = [(scan, probe) for (scan, _), probe in zip(scans, probes, strict=True)]
    return run(*called(equation), operands, pairs, vectors)

  function = call
  if equation.primitive is primitives.jit_p:
    function = jax.jit(call)
  elif equation.primitive is primitives.remat_p:
    function = jax.checkpoint(call, **checkpoint_options(equation))
  return function(operands, [probe for _, probe in scans])


def _run_scan(scan: Scan, operands: Sequence[Any], probe: Probe, vectors: bool) -> list[Any]:
  """Runs a scan and passes each new carry through `tap`."""
  params = scan.equation.params
  first_xs = len(operands) - num_xs(scan.equation)
  first_carry = first_xs - scan.num_carry
  constants, carry, xs = (
    list(operands[:first_carry]),
    list(operands[first_carry:first_xs]),
    list(operands[first_xs:]),
  )

  def step(carry: list[Any], inputs: tuple[list[Any], Probe]) -> tuple[list[Any], list[Any]]:
    xs, probe = inputs
    return _run_step(scan, [*constants, *carry, *xs], probe, vectors)

  if scan.checkpoint is not None:
    step = jax.checkpoint(step, **scan.checkpoint)
  carry, ys = jax.lax.scan(
    step,
    carry,
    (xs, list(probe)),
    length=params["length"],
    reverse=params["reverse"],
    unroll=params["unroll"],
  )
  return [*carry, *ys]


def _run_step(
  scan: Scan, operands: Sequence[Any], probe: Probe, vectors: bool
) -> tuple[list[Any], list[Any]]:
  """Runs a scan's body once and taps the new carry; returns (new carry, ys).

  First, the whole body is run. Then the equations that read the new carry are run again on the
  tapped carry, so that dL/dh_t includes the outputs that the step computes from h_t. The leaves of
  the new carry are not recomputed, because the derivative with respect to one leaf holds the others
  constant: an LSTM's h does not follow c, although it is computed from c.
  """
  jaxpr = scan.body.jaxpr
  env = environment(jaxpr, scan.body.consts, operands)
  for equation in jaxpr.eqns:
    env.update(zip(equation.outvars, run_equation(jaxpr, equation, env), strict=True))
  probes, carry = iter(probe), []
  for var in jaxpr.outvars[: scan.num_carry]:
    value = read(env, var)
    carry.append(tap(value, next(probes), vectors=vectors) if is_inexact(var.aval) else value)
  tapped, carried = dict(env), carried_by(jaxpr, scan.num_carry)
  for var, origin in carried.items():
    if isinstance(origin, Case):
      mask, result = origin.equation.invars[0], tapped[origin.equation.outvars[0]]
      cases = [result, env[var]] if origin.position == 1 else [env[var], result]
      tapped[var] = jax.lax.select_n(read(env, mask), *cases)
    else:
      tapped[var] = carry[origin]
  affected = set(carried)
  for equation in jaxpr.eqns:
    # An equation with side effects, such as a print, runs only once.
    if affected.isdisjoint(filter(is_variable, equation.invars)) or equation.effects:
      continue
    values = run_equation(jaxpr, equation, tapped)
    for var, value in zip(equation.outvars, values, strict=True):
      if var not in carried:
        tapped[var] = value
        affected.add(var)
  return carry, [read(tapped, atom) for atom in jaxpr.outvars[scan.num_carry :]]
