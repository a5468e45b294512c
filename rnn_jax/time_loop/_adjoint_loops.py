"""The forward loop and the reverse loop of `_adjoint.scan`, which update their buffers in place.

Each step reads its entry of a buffer [T, ...] and overwrites it. XLA does this in place only if it
reads the entry before it writes; otherwise it copies the whole buffer. On a CPU, data dependence
enforces this order wherever the `Plan` of `_adjoint_plan` can prove it, except for matrix-vector
products, which XLA fuses differently. In all other cases the loops prefetch: after its writes, each
step reads the entries that the next step needs. The last step's prefetch is unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from rnn_jax.probes import cotangent_norm
from rnn_jax.time_loop._adjoint_plan import Plan
from rnn_jax.types import Carry, Number, Params, Size, floats_of, with_floats


class Perturbations(NamedTuple):
  """Zeros that a step adds to its recurrent product and to its new carry.

  The vjp of the step thereby returns the cotangents of the product and of the new carry, since they
  equal the cotangents of these zeros.

  Attributes:
    recurrent: zeros like the recurrent product.
    carry: zeros like the carry; None without a probe.
  """

  recurrent: PyTree[Array]
  carry: Carry | None


# `(carry, inputs) -> start`: the carry that a step starts from, after resets and cuts. The function
# must not read any real or complex leaf of `inputs`.
Start = Callable[[Carry, PyTree], Carry]

# `(held, params, carry, inputs, perturbations) -> (carry', y)`: one step. `held` and `params` have
# the same values. The step uses `held` only in its recurrent product, recur(held, start(carry,
# inputs)), so that this product's params can be held constant while the rest of the step is
# differentiated. If `perturbations` is None, nothing is added to the product and the carry.
Step = Callable[[Params, Params, Carry, PyTree, Perturbations | None], tuple[Carry, PyTree]]

# `(params, start) -> recurrent product`, linear in the params that it uses. The carry `start` may
# have any leading axes.
Recur = Callable[[Params, Carry], PyTree]


class Loop(NamedTuple):
  """The static part of a scan: its functions and options.

  Attributes:
    step, start, recur: see `scan`.
    structure: pytree structure of the stream, i.e. of the inputs of all steps.
    is_float: for each leaf of the stream, whether it is real or complex. Other leaves have no
      cotangent.
    num_steps: T.
    probed: whether the norms of dL/dh_t are computed.
    reverse: whether the scan runs from the last step to the first.
    unroll: number of steps in one iteration of the compiled loop.
    in_order: whether the plan's proofs of read-before-write order apply. They apply on a CPU, if
      there are no matrix-vector products.
  """

  step: Step
  start: Start
  recur: Recur
  structure: jax.tree_util.PyTreeDef
  is_float: tuple[bool, ...]
  num_steps: Size
  probed: bool
  reverse: bool
  unroll: int
  in_order: bool

  @property
  def num_floats(self) -> int:
    """Number of real and complex leaves of the stream."""
    return sum(self.is_float)

  def split(self, stream: PyTree) -> tuple[list[Array], list[Array]]:
    """Returns (the real and complex leaves of a stream, its other leaves)."""
    leaves = list(zip(jax.tree.leaves(stream), self.is_float, strict=True))
    return [a for a, is_float in leaves if is_float], [a for a, is_float in leaves if not is_float]

  def join(self, floats: Sequence[Array | None], others: Sequence[Array | None]) -> PyTree:
    """Returns the stream that has these leaves; the inverse of `split`."""
    leaves = {True: iter(floats), False: iter(others)}
    return jax.tree.unflatten(self.structure, [next(leaves[kind]) for kind in self.is_float])

  def times(self) -> np.ndarray | Array:
    """Returns the step indices 0 … T−1.

    They are a NumPy array, which every trace treats as a constant. Only if T is symbolic, as
    `jax.export` allows, are they a JAX array.
    """
    arange = np.arange if isinstance(self.num_steps, int) else jnp.arange
    return arange(self.num_steps, dtype=np.uint32)

  def after(self, time: Array, *, reverse: bool) -> Array:
    """Returns the index of the step that a loop runs after step `time`.

    After the last step the index is arbitrary, but within bounds, because `checkify` reports any
    index out of bounds.
    """
    return jnp.minimum(time - 1 if reverse else time + 1, self.num_steps - 1)


def linearize(
  loop: Loop, params: Params, carry: Carry, floats: Sequence[Array], others: Sequence[Array]
) -> tuple[tuple[Carry, PyTree], Callable[[tuple[Carry, PyTree]], tuple[PyTree, ...]]]:
  """Returns ((carry', y), vjp) of one step.

  `floats` and `others` are the leaves of the step's inputs, as `split` separates them. The vjp
  returns the cotangents of params, carry, floats and perturbations. The params' cotangent leaves
  out the path through the recurrent product, which `recurrent_gradient` adds after the loop. It has
  None in place of integer params, which have no cotangent.
  """

  def step(
    free: Params, carry: Carry, floats: Sequence[Array], perturbations: Perturbations
  ) -> tuple[Carry, PyTree]:
    free = with_floats(free, params)
    return loop.step(params, free, carry, loop.join(floats, others), perturbations)

  start = jax.eval_shape(loop.start, carry, loop.join(floats, others))
  recurrent = jax.eval_shape(loop.recur, params, start)
  like = jax.tree.leaves(carry)[0]
  zeros = jax.tree.map(
    lambda a: jnp.zeros_like(like, shape=a.shape, dtype=a.dtype),
    Perturbations(recurrent, carry if loop.probed else None),
  )
  return jax.vjp(step, floats_of(params), carry, floats, zeros)


def forward_loop(
  loop: Loop,
  plan: Plan,
  params: Params,
  carry: Carry,
  buffers: Sequence[Array],
  others: Sequence[Array],
) -> tuple[Carry, PyTree, list[Array]]:
  """Returns the final carry, ys, and the buffers with the values that the plan writes to them."""
  num_prefetched = 0 if loop.in_order and plan.forward_in_order else loop.num_floats

  def body(state: PyTree, inputs: PyTree) -> PyTree:
    carry, buffers, prefetched = state
    time, others = inputs
    floats = [*prefetched, *_read(buffers[num_prefetched : loop.num_floats], time)]
    (new, y), vjp = linearize(loop, params, carry, floats, others)
    leaves = jax.tree.leaves((carry, vjp))
    buffers = _write(buffers, {at: leaves[leaf] for at, leaf in plan.writes.items()}, time)
    following = loop.after(time, reverse=loop.reverse)
    return (new, buffers, _read(buffers[:num_prefetched], following)), y

  times = loop.times()
  prefetched = _read(buffers[:num_prefetched], times[-1 if loop.reverse else 0])
  state = carry, list(buffers), prefetched
  # This scan is the forward pass of `unroll` under differentiation.
  (final, written, _), ys = jax.lax.scan(
    body, state, (times, others), reverse=loop.reverse, unroll=loop.unroll
  )
  return final, ys, written


def reverse_loop(
  loop: Loop,
  plan: Plan,
  any_vjp: Callable[..., PyTree],
  params: Params,
  buffers: Sequence[Array],
  carry_bar: Carry,
  ys_bar: PyTree[Array],
) -> tuple[Params, Carry, list[Array]]:
  """Returns the cotangents of params and initial carry, and the buffers with all other cotangents.

  Args:
    loop: the static part of the scan.
    plan: the assignment of values to buffers.
    any_vjp: the vjp of an arbitrary step, from `linearize`. Of its residuals, only those that are
      the same at every step are used.
    params: the step's params.
    buffers: the buffers that the forward loop returned.
    carry_bar: cotangent of the final carry.
    ys_bar: cotangent of the outputs of all steps.
  """
  fixed, structure_of_vjp = jax.tree.flatten(any_vjp)
  y_leaves, structure_of_y = jax.tree.flatten(ys_bar)
  y_buffers = slice(len(buffers), len(buffers) + len(y_leaves))
  buffers = [*buffers, *y_leaves, *allocate(loop.num_steps, plan.reverse_specs, buffers[0])]
  perturbations = [*plan.recurrent_bar, *plan.new_carry_bar]
  early = plan.prefetched if loop.in_order else sorted({*range(loop.num_floats), *perturbations})

  def body(state: PyTree, time: Array) -> tuple[PyTree, None]:
    params_bar, carry_bar, buffers, prefetched = state
    now = _read(buffers, time)
    for at, a in zip(early, prefetched, strict=True):
      now[at] = a
    varying = [None if at is None else now[at] for at in plan.residuals]
    residuals = [a if b is None else b for a, b in zip(fixed, varying, strict=True)]
    vjp = jax.tree.unflatten(structure_of_vjp, residuals)
    y_bar = jax.tree.unflatten(structure_of_y, now[y_buffers])
    more, carry_bar, floats_bar, perturbations_bar = vjp((carry_bar, y_bar))
    new = dict(enumerate(floats_bar))
    for at, a in zip(perturbations, jax.tree.leaves(perturbations_bar), strict=True):
      is_whole = a.shape == buffers[at].shape[1:]
      new[at] = a if is_whole else cotangent_norm(a, 1)
    buffers = _write(buffers, new, time)
    following = loop.after(time, reverse=not loop.reverse)
    prefetched = _read([buffers[at] for at in early], following)
    return (jax.tree.map(jnp.add, params_bar, more), carry_bar, buffers, prefetched), None

  times = loop.times()
  prefetched = _read([buffers[at] for at in early], times[0 if loop.reverse else -1])
  state = jax.tree.map(jnp.zeros_like, floats_of(params)), carry_bar, buffers, prefetched
  # This scan is the reverse pass of `unroll`.
  (params_bar, carry_bar, buffers, _), _ = jax.lax.scan(
    body, state, jnp.asarray(times), reverse=not loop.reverse, unroll=loop.unroll
  )
  return params_bar, carry_bar, buffers


def allocate(num_steps: Size, specs: Sequence[jax.ShapeDtypeStruct], like: Array) -> list[Array]:
  return [jnp.zeros_like(like, shape=(num_steps, *spec.shape), dtype=spec.dtype) for spec in specs]


def _read(arrays: Sequence[Array], time: Number) -> list[Array]:
  return [jax.lax.dynamic_index_in_dim(a, time, keepdims=False) for a in arrays]


def _write(arrays: Sequence[Array], new: Mapping[int, Array], time: Array) -> list[Array]:
  """Returns the arrays with `new[i]` written to array i at `time`, for every i in `new`."""
  update = jax.lax.dynamic_update_index_in_dim
  return [update(a, new[at], time, 0) if at in new else a for at, a in enumerate(arrays)]
