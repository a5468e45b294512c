"""A recurrent scan with its reverse sweep written out: where a training step's speed comes from.

Differentiated by JAX, a scan keeps inputs, residuals and cotangents in arrays of their own, and
adds h_{t−1}ᵀ ā_t to the gradient of the recurrent kernel in every step. Here instead

  - residuals, and then cotangents, overwrite arrays of their shape that are no longer needed, step
    by step: a drive [T, B, G·H] is read, replaced by a derivative, and that by its cotangent ā;
  - ā is kept for all time, and the gradient of the recurrent kernel is one product after the loop;
  - dL/dh_t is kept where it is asked for, and its norms are taken after the loop, all at once; but
    for a part of the carry that no such array has room for, they are taken step by step.

What a step's residuals are, and which of them change with time, is read off its trace, so that this
works for any cell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.probes import scaled_norm
from rnn_jax.time_loop._adjoint_plan import make_plan
from rnn_jax.types import Array, Carry, Params


class Slots(NamedTuple):
  """Zeros that a step adds to its recurrent product and to its new carry, for their cotangents.

  Attributes:
    recurrent: like the recurrent product.
    carry: like the carry; None without a probe.
  """

  recurrent: Any
  carry: Carry | None


# (carry, now) -> start. Of `now` it reads no floats.
Begin = Callable[[Carry, Any], Carry]

# (held, params, carry, now, slots) -> (carry', y). The one use of `held` is the recurrent product,
# recur(held, begin(carry, now)). Where slots is None, nothing is added.
Step = Callable[[Params, Params, Carry, Any, Slots | None], tuple[Carry, Any]]


def scan(
  step: Step,
  begin: Begin,
  recur: Callable[[Params, Carry], Any],
  params: Params,
  carry: Carry,
  stream: Any,
  probe: Carry | None = None,
  *,
  reverse: bool = False,
  unroll: int = 1,
) -> tuple[Carry, Any]:
  """`lax.scan` of `(carry, now) ↦ step(params, params, carry, now, None)`, quick in reverse mode.

  Args:
    step: one step in time, as `Step` says.
    begin: what a step makes of its carry before anything else.
    recur: linear in the params that it uses, over any leading axes.
    params: of the cell.
    carry: at the start; leaves [B, ...], real or complex.
    stream: what a step reads as `now`; leaves [T, ...].
    probe: from `gradient_probe`; its cotangent is ‖dL/dh_t‖.
    reverse: runs from the last step to the first.
    unroll: steps in one iteration of the compiled loop.
  Returns:
    (final carry, ys). Their reverse-mode derivative may be differentiated again, in both modes;
    they have no forward-mode derivative.
  """
  loop = functools.partial(jax.lax.scan, unroll=unroll)
  # The backward pass is planned from zeros, which are never weakly typed as `jnp.full(3, 2.0)` is.
  params, carry, stream = jax.tree.map(_strongly_typed, (params, carry, stream))
  leaves, structure = _flatten(stream)
  inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
  num_floats = sum(inexact)
  # What a step reads of an array that it overwrites must be read first, or XLA copies the whole of
  # it. On a CPU the order follows from what is computed from what, as far as the plan can tell, but
  # for products of vectors, which are fused otherwise. Elsewhere a step reads what the next one
  # needs, ahead, out of the array that it has just written; what the last one reads is for nobody.
  sizes = [size for leaf in jax.tree.leaves(carry) for size in leaf.shape]
  in_order = jax.default_backend() == "cpu" and min(sizes) > 1
  # No jax array may be closed over: the derivative is traced at another time than the result.
  times = np.arange(leaves[0].shape[0], dtype=np.uint32)

  def join(floats: Sequence[Any], others: Sequence[Any]) -> Any:
    pools = {True: iter(floats), False: iter(others)}
    return structure.unflatten([next(pools[kind]) for kind in inexact])

  def linearize(params: Params, carry: Carry, floats: list[Array], others: list[Array]) -> Any:
    """(carry', y), and their vjp, towards params, carry, floats and slots."""

    def free(params_: Params, carry: Carry, floats: list[Array], slots: Slots) -> Any:
      return step(params, params_, carry, join(floats, others), slots)

    start = jax.eval_shape(begin, carry, join(floats, others))
    like = Slots(jax.eval_shape(recur, params, start), None if probe is None else carry)
    slots = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
    return jax.vjp(free, params, carry, floats, slots)

  @jax.custom_vjp
  def run(params: Params, carry: Carry, stream: Any, probe: Carry | None) -> tuple[Carry, Any]:
    del probe

    def body(carry: Carry, now: Any) -> tuple[Carry, Any]:
      return step(params, params, carry, now, None)

    return loop(body, carry, stream, reverse=reverse)

  def forward(params: Params, carry: Carry, stream: Any, probe: Any) -> tuple[Any, Any]:
    del probe
    leaves = jax.tree.leaves(stream)
    memory = [leaf for leaf, kind in zip(leaves, inexact, strict=True) if kind]
    others = [leaf for leaf, kind in zip(leaves, inexact, strict=True) if not kind]
    plan = make_plan(linearize, params, carry, *_first((memory, others)))
    memory += _allocate(times, plan.more)

    def body(state: Any, now: Any) -> tuple[Any, Any]:
      carry, memory, ahead = state
      time, others = now
      floats = [*ahead, *_read(memory[len(ahead) : num_floats], time)]
      (new, y), vjp = linearize(params, carry, floats, others)
      found = zip([*plan.carry, *plan.residuals], jax.tree.leaves((carry, vjp)), strict=True)
      kept = {at: a for at, a in found if isinstance(at, int) and at not in plan.unchanged}
      memory = _write(memory, kept, time)
      ahead = _read(memory[: len(ahead)], time - 1 if reverse else time + 1)
      return (new, memory, ahead), y

    safe = in_order and plan.floats_in_order
    ahead = [] if safe else _read(memory[:num_floats], times[-1 if reverse else 0])
    state = (carry, memory, ahead)
    (final, memory, _), ys = loop(body, state, (times, others), reverse=reverse)
    return (final, ys), (params, carry, memory, others, ys)

  def backward(saved: Any, bars: Any) -> Any:
    params, carry, memory, others, ys = saved
    carry_bar, ys_bar = bars
    blank = jax.tree.map(jnp.zeros_like, (carry_bar, *_first((memory[:num_floats], others))))
    plan = make_plan(linearize, params, *blank)
    _, vjp = linearize(params, *blank)
    # What does not change with time is the same in a step of zeros.
    fixed, structure_of_vjp = _flatten(vjp)
    y_leaves, structure_of_y = _flatten(ys_bar)
    y_places = slice(len(memory), len(memory) + len(y_leaves))
    memory = [*memory, *y_leaves, *_allocate(times, plan.more_in_reverse)]
    early = plan.ahead if in_order else sorted({*range(num_floats), *plan.slots})

    def body(state: Any, time: Array) -> tuple[Any, None]:
      params_bar, carry_bar, memory, ahead = state
      now = _read(memory, time)
      for at, a in zip(early, ahead, strict=True):
        now[at] = a
      moving = [None if at is None else now[at] for at in plan.residuals]
      residuals = [a if b is None else b for a, b in zip(fixed, moving, strict=True)]
      vjp = structure_of_vjp.unflatten(residuals)
      more, carry_bar, floats_bar, slots_bar = vjp(
        (carry_bar, structure_of_y.unflatten(now[y_places]))
      )
      new = dict(enumerate(floats_bar))
      for at, a in zip(plan.slots, jax.tree.leaves(slots_bar), strict=True):
        new[at] = a if a.shape == memory[at].shape[1:] else scaled_norm(a, tuple(range(1, a.ndim)))
      memory = _write(memory, new, time)
      ahead = _read([memory[at] for at in early], time + 1 if reverse else time - 1)
      return (jax.tree.map(jnp.add, params_bar, more), carry_bar, memory, ahead), None

    ahead = _read([memory[at] for at in early], times[0 if reverse else -1])
    state = (jax.tree.map(jnp.zeros_like, params), carry_bar, memory, ahead)
    (params_bar, carry_bar, memory, _), _ = loop(
      body, state, jnp.asarray(times), reverse=not reverse
    )

    # The recurrent kernel, from all time steps at once.
    carries = [
      memory[at] if isinstance(at, int) else at.of_all_steps(carry, ys, reverse)
      for at in plan.carry
    ]
    whole = jax.tree.unflatten(jax.tree.structure(carry), carries)
    rows = jax.tree.map(_merge, jax.vmap(begin)(whole, join([None] * num_floats, others)))
    products, recur_vjp = jax.vjp(lambda params: recur(params, rows), params)
    product_leaves, structure_of_product = _flatten(products)
    slots_bar = [memory[at] for at in plan.slots]
    recurrent_bar = [_merge(a) for a in slots_bar[: len(product_leaves)]]
    (held_bar,) = recur_vjp(structure_of_product.unflatten(recurrent_bar))

    totals = slots_bar[len(product_leaves) :]
    norms = [scaled_norm(a, axis=tuple(range(2, a.ndim))) for a in totals]
    probe_bar = jax.tree.unflatten(jax.tree.structure(probe), norms)
    stream_bar = join(memory[:num_floats], [None] * len(others))
    return jax.tree.map(jnp.add, params_bar, held_bar), carry_bar, stream_bar, probe_bar

  run.defvjp(forward, backward)
  return run(params, carry, stream, probe)


def _flatten(tree: Any) -> tuple[list[Any], Any]:
  return jax.tree.flatten(tree)


def _strongly_typed(a: Array) -> Array:
  return jax.lax.convert_element_type(a, a.dtype)


def _first(tree: Any) -> Any:
  """The first of all time steps."""
  return jax.tree.map(lambda a: a[0], tree)


def _allocate(times: np.ndarray, kinds: Sequence[Any]) -> list[Array]:
  return [jnp.zeros(times.shape + shape, dtype) for shape, dtype in kinds]


def _merge(a: Array) -> Array:
  """[T, B, ...] as [T·B, ...]: XLA:CPU is several times slower where two axes are contracted."""
  return a.reshape(-1, *a.shape[2:])


def _read(arrays: Sequence[Array], time: Array) -> list[Array]:
  return [jax.lax.dynamic_index_in_dim(a, time, keepdims=False) for a in arrays]


def _write(arrays: Sequence[Array], new: Mapping[int, Array], time: Array) -> list[Array]:
  """The arrays, with the entries at `time` replaced that `new` names."""
  update = jax.lax.dynamic_update_index_in_dim
  return [update(a, new[i], time, 0) if i in new else a for i, a in enumerate(arrays)]
