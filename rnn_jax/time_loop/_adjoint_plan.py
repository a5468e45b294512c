"""What a step of the reverse sweep needs, read off its trace: what is kept, and where.

The loops of `adjoint.scan` overwrite arrays that are no longer needed. Which those are, and whether
a compiled step is sure to have read one when it overwrites it, is found here, for any cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.time_loop._read_order import reads_before, split_at
from rnn_jax.types import Array, Carry, Params


class Previous(NamedTuple):
  """An array of the carry that is the output of the step before, and is not kept a second time.

  Attributes:
    y, carry: which leaf of the output, and which of the carry.
  """

  y: int
  carry: int

  def of_all_steps(self, carry: Carry, ys: Any, reverse: bool) -> Array:
    """[T, ...], from the initial carry and the outputs."""
    first, later = jax.tree.leaves(carry)[self.carry][None], jax.tree.leaves(ys)[self.y]
    return jnp.concatenate([later[1:], first] if reverse else [first, later[:-1]])


class Plan(NamedTuple):
  """Places in the loop's memory, a list of arrays [T, ...].

  It begins with the floats of the stream. The forward loop adds what `more` says, the reverse loop
  the cotangents of ys and what `more_in_reverse` says.

  Attributes:
    carry: place of each array of the carry.
    residuals: place of each residual of the step; None where it is the same in every step.
    slots: place of each slot's cotangent, or, where its shape is [B], of the norms of it.
    unchanged: places of floats that are residuals as they are.
    floats_in_order: whether the forward loop has read a float when it overwrites it.
    ahead: places that the reverse loop reads ahead in any case: it may not have read all of them
      when it overwrites them.
    more, more_in_reverse: shape of a step's share, and dtype.
  """

  carry: list[int | Previous]
  residuals: list[int | None]
  slots: list[int]
  unchanged: list[int]
  floats_in_order: bool
  ahead: list[int]
  more: list[Any]
  more_in_reverse: list[Any]


def make_plan(linearize: Any, params: Params, carry: Carry, floats: Any, others: Any) -> Plan:
  """Reads off the trace of one step what has to be kept, and what may overwrite what."""

  def trace(params: Params, carry: Carry, floats: Any, others: Any) -> Any:
    new, vjp = linearize(params, carry, floats, others)
    *others_bar, floats_bar, slots_bar = vjp(new)
    return tuple(map(jax.tree.leaves, (vjp, *new, floats_bar, *slots_bar, others_bar)))

  closed, shapes = jax.make_jaxpr(trace, return_shape=True)(params, carry, floats, others)
  jaxpr = closed.jaxpr
  num_params = len(jax.tree.leaves(params))
  moving = {id(v) for v in jaxpr.invars[num_params:]}
  _follow(jaxpr, moving)
  outputs: Iterator[Any] = iter(jaxpr.outvars)
  residuals, carry_out, ys, floats_bar, recurrent_bar, totals, others_bar = (
    [next(outputs) for _ in part] for part in shapes
  )
  num_carries = len(carry_out)
  carry_in = jaxpr.invars[num_params : num_params + num_carries]
  floats_in = jaxpr.invars[num_params + num_carries :][: len(floats)]

  memory = [(a.shape, a.dtype) for a in floats]
  made_of = [{id(v)} for v in floats_in]
  for reached in made_of:
    _follow(jaxpr, reached)

  def fitting(v: Any, free: Sequence[int]) -> list[int]:
    """Free places that `v` may take.

    A float is overwritten by what is made of it alone: nothing else is sure to come after it is
    read.
    """
    kind = (v.aval.shape, v.aval.dtype)
    return [at for at in free if memory[at] == kind and (at >= len(floats) or id(v) in made_of[at])]

  def put(variables: Sequence[Any], places: dict[int, int], free: list[int]) -> None:
    """Gives each variable that has no place a free one, or a new one."""
    for v in variables:
      if id(v) not in places:
        places[id(v)] = next(iter(fitting(v, free)), len(memory))
        if places[id(v)] in free:
          free.remove(places[id(v)])
        else:
          memory.append((v.aval.shape, v.aval.dtype))

  unchanged = [at for at, v in enumerate(floats_in) if v in residuals]
  places = {id(floats_in[at]): at for at in unchanged}
  put([old for old, new in zip(carry_in, carry_out, strict=True) if new not in ys], places, [])
  free = [at for at in range(len(floats)) if at not in unchanged]
  put([v for v in residuals if id(v) in moving], places, free)
  carry_places: list[int | Previous] = [
    Previous(ys.index(new), i) if new in ys else places[id(old)]
    for i, (old, new) in enumerate(zip(carry_in, carry_out, strict=True))
  ]
  more = memory[len(floats) :]
  free = [at for at in range(len(floats), len(memory) + len(ys)) if at not in carry_places]
  y_places = range(len(memory), len(memory) + len(ys))
  memory += [(v.aval.shape, v.aval.dtype) for v in ys]
  before = len(memory)
  in_reverse = {id(v): at for at, v in enumerate(floats_bar)}
  put(recurrent_bar, in_reverse, free)
  for v in totals:
    if id(v) in in_reverse or fitting(v, free):
      put([v], in_reverse, free)
    else:
      in_reverse[id(v)] = len(memory)
      memory.append((v.aval.shape[:1], np.zeros((), v.aval.dtype).real.dtype))
  slots_bar = [*recurrent_bar, *totals]
  slots = [in_reverse[id(v)] for v in slots_bar]
  ahead = {*unchanged, *(at for at in slots if at in y_places), *slots[len(recurrent_bar) :]}

  kept = {places[id(v)]: v for v in residuals if id(v) in places}
  made = [*residuals, *carry_out, *ys]
  forward, backward = split_at(jaxpr.eqns, made)
  floats_in_order = all(
    reads_before(forward, floats_in[at], kept[at], made)
    for at in range(len(floats))
    if at in kept and at not in unchanged
  )
  bars = [*floats_bar, *slots_bar, *others_bar]
  for at, v in [*enumerate(floats_bar), *zip(slots, slots_bar, strict=True)]:
    if at in kept and not reads_before(backward, kept[at], v, bars):
      ahead.add(at)
  return Plan(
    carry_places,
    [places.get(id(v)) for v in residuals],
    slots,
    unchanged,
    floats_in_order,
    sorted(ahead),
    more,
    memory[before:],
  )


def _follow(jaxpr: Any, moving: set[int]) -> None:
  """Adds to `moving`, ids of variables, all that depends on them."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "jit":
      inner = equation.params["jaxpr"].jaxpr
      outside = zip(inner.invars, equation.invars, strict=True)
      inside = {id(v) for v, given in outside if id(given) in moving}
      _follow(inner, inside)
      results = zip(inner.outvars, equation.outvars, strict=True)
      moving.update(id(v) for result, v in results if id(result) in inside)
    elif any(id(v) in moving for v in equation.invars):
      moving.update(map(id, equation.outvars))
