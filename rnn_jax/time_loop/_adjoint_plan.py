"""The plan of `_adjoint.scan`: which buffer holds which value, derived from the jaxpr of one step.

The jaxpr shows what a step's residuals are, which of them change with time, and which value may
overwrite which. So the plan needs no knowledge of a particular cell and works for any cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jax.extend.core import Jaxpr, Var
from jaxtyping import Array, Inexact, PyTree

from rnn_jax.precision import wide
from rnn_jax.time_loop._read_order import Atom, descendants_of, reads_before, split_at

# `(params, carry, floats, others) -> ((carry', y), vjp)`: one step and its vjp.
Linearize = Callable[..., tuple[tuple[PyTree, PyTree], Callable[..., PyTree]]]


class Stored(NamedTuple):
  """A carry leaf that the forward loop writes to a buffer at every step.

  Attributes:
    buffer: index of the buffer.
  """

  buffer: int

  def all_steps(
    self, buffers: Sequence[Array], carry: PyTree[Array], ys: PyTree[Array], reverse: bool
  ) -> Array:
    """Returns the carry leaf before each step, [T, ...]."""
    del carry, ys, reverse
    return buffers[self.buffer]


class PreviousOutput(NamedTuple):
  """A carry leaf that equals an output of the previous step. It needs no buffer, since ys hold it.

  Attributes:
    leaf: index of the leaf in the carry.
    y: index of the leaf in the output.
  """

  leaf: int
  y: int

  def all_steps(
    self, buffers: Sequence[Array], carry: PyTree[Array], ys: PyTree[Array], reverse: bool
  ) -> Array:
    """Returns the carry leaf before each step, [T, ...].

    It is the initial carry for the first step, and the previous step's output for all others.
    """
    del buffers
    first, later = jax.tree.leaves(carry)[self.leaf][None], jax.tree.leaves(ys)[self.y]
    return jnp.concatenate([later[1:], first] if reverse else [first, later[:-1]])


class Plan(NamedTuple):
  """The assignment of values to buffers, where a buffer is an array [T, ...] known by its index.

  The buffers are numbered in this order:

    - the real and complex leaves of the stream,
    - the buffers that the forward loop allocates,
    - the cotangents of ys,
    - the buffers that the reverse loop allocates.

  Attributes:
    carry: for each leaf of the carry, where to find its value before each step.
    residuals: for each residual of the step, its buffer; None if it is the same at every step.
    writes: `{buffer: leaf}`, the writes of each step of the forward loop, where a leaf is an index
      into the leaves of (carry, residuals).
    recurrent_bar: for each leaf of the recurrent product, the buffer of its cotangent.
    new_carry_bar: for each leaf of the probed carry, the buffer of its cotangent. If no buffer of
      the leaf's shape is free, this is a new buffer [T, B], which holds only the cotangent's norms.
    forward_in_order: whether the forward loop is guaranteed to read every leaf of the stream before
      it overwrites that leaf's entry.
    prefetched: buffers that the reverse loop must prefetch, because it might otherwise overwrite
      an entry before it has read it.
    forward_specs: shape and dtype, at one step, of each buffer that the forward loop allocates.
    reverse_specs: shape and dtype, at one step, of each buffer that the reverse loop allocates.
  """

  carry: list[Stored | PreviousOutput]
  residuals: list[int | None]
  writes: dict[int, int]
  recurrent_bar: list[int]
  new_carry_bar: list[int]
  forward_in_order: bool
  prefetched: list[int]
  forward_specs: list[ShapeDtypeStruct]
  reverse_specs: list[ShapeDtypeStruct]


def make_plan(
  linearize: Linearize,
  params: PyTree[Array],
  carry: PyTree[Inexact[Array, " ..."]],
  floats: Sequence[Inexact[Array, " ..."]],
  others: Sequence[Array],
) -> Plan:
  """Returns the plan for the forward loop and the reverse loop, derived from one step.

  Args:
    linearize: `(params, carry, floats, others) -> ((carry', y), vjp)`, one step and its vjp. The
      vjp returns the cotangents of params, carry and floats, and a pair: the cotangents of the
      recurrent product and of the new carry (see `Perturbations`).
    params: the step's params.
    carry: the carry before the step.
    floats: the real and complex leaves of the stream (the loops' inputs) at one step.
    others: the other leaves of the stream at one step.
  """
  trace = _trace_step(linearize, params, carry, floats, others)
  results, num_floats = trace.results, len(trace.floats)
  buffers = _Buffers(trace)

  # A residual that is itself a leaf of the stream is already in a buffer.
  unchanged = {at for at, v in enumerate(trace.floats) if v in results.residuals}
  kept = _assign_forward(trace, buffers, unchanged)
  residuals = [kept.get(id(v)) for v in results.residuals]
  stored = [
    None if new in results.ys else kept[id(old)]
    for old, new in zip(trace.carry, results.carry, strict=True)
  ]
  carry_leaves = [
    PreviousOutput(leaf, results.ys.index(new)) if at is None else Stored(at)
    for leaf, (at, new) in enumerate(zip(stored, results.carry, strict=True))
  ]
  writes = {
    at: leaf
    for leaf, at in enumerate([*stored, *residuals])
    if at is not None and at not in unchanged
  }
  forward_specs = buffers.specs[num_floats:]

  # The reverse loop may overwrite any buffer added so far, except those that store the carry,
  # because these are read after the loop.
  ys_bar = buffers.add(map(_spec, results.ys))
  free = [at for at in range(num_floats, ys_bar.stop) if at not in stored]
  recurrent_bar, new_carry_bar = _assign_reverse(trace, buffers, free)

  residual_in = {
    at: v for at, v in zip(residuals, results.residuals, strict=True) if at is not None
  }
  unproven = _unproven_in_reverse(trace, residual_in, [*recurrent_bar, *new_carry_bar])
  # No proof is attempted for these buffers, so they are always prefetched: residuals that are
  # leaves of the stream, buffers for the carry's cotangents, and cotangents of ys that are
  # overwritten by cotangents of the recurrent product.
  untried = {*unchanged, *new_carry_bar, *(at for at in recurrent_bar if at in ys_bar)}
  return Plan(
    carry=carry_leaves,
    residuals=residuals,
    writes=writes,
    recurrent_bar=recurrent_bar,
    new_carry_bar=new_carry_bar,
    forward_in_order=_forward_in_order(trace, residual_in, unchanged),
    prefetched=sorted(unproven | untried),
    forward_specs=forward_specs,
    reverse_specs=buffers.specs[ys_bar.stop :],
  )


class _Results(NamedTuple):
  """The variables that a step and its vjp return: a list of leaves for each role."""

  residuals: list[Atom]
  carry: list[Atom]
  ys: list[Atom]
  floats_bar: list[Atom]
  recurrent_bar: list[Atom]
  new_carry_bar: list[Atom]
  others_bar: list[Atom]  # cotangents of params and carry


class _Trace(NamedTuple):
  """The jaxpr of one step and its vjp, and the roles of its variables."""

  jaxpr: Jaxpr
  carry: list[Var]
  floats: list[Var]
  varying: set[int]  # ids of the variables that change with time
  results: _Results


def _trace_step(
  linearize: Linearize,
  params: PyTree,
  carry: PyTree,
  floats: Sequence[Array],
  others: Sequence[Array],
) -> _Trace:
  def step(
    params: PyTree, carry: PyTree, floats: list[Array], others: list[Array]
  ) -> tuple[list[Array], ...]:
    (new, y), vjp = linearize(params, carry, floats, others)
    params_bar, carry_bar, floats_bar, (recurrent_bar, new_carry_bar) = vjp((new, y))
    others_bar = params_bar, carry_bar
    # The order is that of the fields of `_Results`.
    trees = (vjp, new, y, floats_bar, recurrent_bar, new_carry_bar, others_bar)
    return tuple(map(jax.tree.leaves, trees))

  closed, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, floats, others)
  jaxpr = closed.jaxpr
  num_params, num_carries = len(jax.tree.leaves(params)), len(jax.tree.leaves(carry))
  varying = jaxpr.invars[num_params:]
  return _Trace(
    jaxpr=jaxpr,
    carry=varying[:num_carries],
    floats=varying[num_carries : num_carries + len(floats)],
    varying=descendants_of(jaxpr, varying),
    results=_Results(*jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.outvars)),
  )


class _Buffers:
  """The buffers allocated so far, and a record of which values may be written to each."""

  def __init__(self, trace: _Trace):
    self.specs = [_spec(v) for v in trace.floats]
    self._computed_from = [descendants_of(trace.jaxpr, [v]) for v in trace.floats]

  def add(self, specs: Iterable[ShapeDtypeStruct]) -> range:
    """Adds buffers and returns their indices."""
    start = len(self.specs)
    self.specs += specs
    return range(start, len(self.specs))

  def fitting(self, v: Atom, free: Iterable[int]) -> list[int]:
    """Returns the free buffers that the variable `v` may overwrite.

    A leaf of the stream may be overwritten only by a value computed from that leaf, because any
    other value might be written before the leaf is read.
    """

    def may_overwrite(at: int) -> bool:
      return at >= len(self._computed_from) or id(v) in self._computed_from[at]

    return [at for at in free if self.specs[at] == _spec(v) and may_overwrite(at)]

  def assign(self, variables: Iterable[Atom], assigned: dict[int, int], free: list[int]) -> None:
    """Assigns a free buffer that fits, or else a new one, to each variable that has none yet.

    Args:
      variables: the variables that need a buffer.
      assigned: `{id of a variable: buffer}`; new assignments are added to this dict.
      free: buffers that may be overwritten; a buffer that gets assigned is removed from this list.
    """
    for v in variables:
      if id(v) in assigned:
        continue
      fitting = self.fitting(v, free)
      if fitting:
        free.remove(fitting[0])
      assigned[id(v)] = fitting[0] if fitting else self.add([_spec(v)]).start


def _assign_forward(trace: _Trace, buffers: _Buffers, unchanged: set[int]) -> dict[int, int]:
  """Returns `{id of a variable: buffer}` for time-varying residuals and stored carry leaves.

  A carry leaf is stored unless it equals an output of the previous step.
  """
  results = trace.results
  assigned = {id(trace.floats[at]): at for at in unchanged}
  pairs = zip(trace.carry, results.carry, strict=True)
  buffers.assign([old for old, new in pairs if new not in results.ys], assigned, free=[])
  free = [at for at in range(len(trace.floats)) if at not in unchanged]
  buffers.assign([v for v in results.residuals if id(v) in trace.varying], assigned, free)
  return assigned


def _assign_reverse(
  trace: _Trace, buffers: _Buffers, free: list[int]
) -> tuple[list[int], list[int]]:
  """Returns the buffers for the cotangents of the recurrent product and of the probed carry."""
  results = trace.results
  # If a recurrent product is added to a drive, both have the same cotangent and share its buffer.
  assigned = {id(v): at for at, v in enumerate(results.floats_bar)}
  buffers.assign(results.recurrent_bar, assigned, free)
  for v in results.new_carry_bar:
    if id(v) in assigned or buffers.fitting(v, free):
      buffers.assign([v], assigned, free)
    else:
      assigned[id(v)] = buffers.add([_spec_of_norms(v)]).start
  recurrent_bar, new_carry_bar = (
    [assigned[id(v)] for v in bars] for bars in (results.recurrent_bar, results.new_carry_bar)
  )
  return recurrent_bar, new_carry_bar


def _forward_in_order(trace: _Trace, residual_in: dict[int, Atom], unchanged: set[int]) -> bool:
  """Returns whether the forward loop provably reads each stream leaf before overwriting it."""
  outputs = [*trace.results.residuals, *trace.results.carry, *trace.results.ys]
  forward, _ = split_at(trace.jaxpr.eqns, outputs)
  return all(
    reads_before(forward, old, residual_in[at], outputs)
    for at, old in enumerate(trace.floats)
    if at in residual_in and at not in unchanged
  )


def _unproven_in_reverse(
  trace: _Trace, residual_in: dict[int, Atom], perturbations: Sequence[int]
) -> set[int]:
  """Returns the buffers of residuals that the reverse loop may overwrite before reading them."""
  results = trace.results
  _, reverse = split_at(trace.jaxpr.eqns, [*results.residuals, *results.carry, *results.ys])
  perturbation_bars = [*results.recurrent_bar, *results.new_carry_bar]
  outputs = [*results.floats_bar, *perturbation_bars, *results.others_bar]
  written = [*enumerate(results.floats_bar), *zip(perturbations, perturbation_bars, strict=True)]
  return {
    at
    for at, new in written
    if at in residual_in and not reads_before(reverse, residual_in[at], new, outputs)
  }


def _spec(v: Atom) -> ShapeDtypeStruct:
  aval: Any = v.aval
  return ShapeDtypeStruct(aval.shape, aval.dtype)


def _spec_of_norms(v: Atom) -> ShapeDtypeStruct:
  spec = _spec(v)
  return ShapeDtypeStruct(spec.shape[:1], wide(spec.dtype))
