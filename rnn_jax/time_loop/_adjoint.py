"""A recurrent scan whose reverse pass is written out by hand.

Differentiated by JAX, a scan keeps its inputs, residuals and cotangents in separate arrays, and
adds h_{t−1}ᵀ ā_t to the gradient of the recurrent kernel at every step. Here instead:

  - Residuals, and then cotangents, overwrite arrays of their shape that are no longer needed, step
    by step. A drive [T, B, G·H] is read, replaced by a derivative, and that by its cotangent ā.
  - ā is kept for all steps, and the gradient of the recurrent kernel is one product after the loop.
  - With a probe, dL/dh_t is kept for all steps and its norms are computed after the loop at once,
    except for carry leaves that find no buffer of their shape to reuse: their norms are computed
    step by step.

`scan` runs the plain loop. Differentiated, it calls `forward`, which runs `forward_loop`, and then
`backward`, which runs `reverse_loop` and `recurrent_gradient`. Which value is in which buffer is
said by the `Plan` of `_adjoint_plan`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from rnn_jax.probes import scaled_norm
from rnn_jax.time_loop._adjoint_loops import (
  Loop,
  Recur,
  Start,
  Step,
  allocate,
  forward_loop,
  linearize,
  reverse_loop,
)
from rnn_jax.time_loop._adjoint_plan import make_plan
from rnn_jax.types import Carry, Params


def scan(
  step: Step,
  start: Start,
  recur: Recur,
  params: Params,
  carry: Carry,
  stream: PyTree[Array],
  probe: Carry | None = None,
  *,
  reverse: bool = False,
  unroll: int = 1,
) -> tuple[Carry, PyTree[Array]]:
  """Returns `lax.scan` of `(carry, inputs) -> step(params, params, carry, inputs, None)`.

  Args:
    step: one step in time; see `Step`.
    start: the carry that a step starts from, after resets and cuts; see `Start`.
    recur: the recurrent product; see `Recur`.
    params: of the step.
    carry: initial carry, leaves [B, ...], real or complex.
    stream: inputs of all steps, leaves [T, ...].
    probe: from `gradient_probe`; its cotangent is ‖dL/dh_t‖.
    reverse: runs from the last step to the first.
    unroll: steps in one iteration of the compiled loop.
  Returns:
    (final carry, ys). Their reverse-mode derivative may be differentiated again, in both modes;
    they have no forward-mode derivative.
  """
  # The backward pass is planned from zeros, which are never weakly typed as `jnp.full(3, 2.0)` is.
  params, carry, stream = jax.tree.map(_strongly_typed, (params, carry, stream))
  leaves, structure = jax.tree.flatten(stream)
  sizes = [size for leaf in jax.tree.leaves(carry) for size in leaf.shape]
  loop = Loop(
    step=step,
    start=start,
    recur=recur,
    structure=structure,
    is_float=tuple(bool(jnp.issubdtype(leaf.dtype, jnp.inexact)) for leaf in leaves),
    num_steps=leaves[0].shape[0],
    probed=probe is not None,
    reverse=reverse,
    unroll=unroll,
    in_order=jax.default_backend() == "cpu" and min(sizes) > 1,
  )
  return _run(loop, params, carry, stream, probe)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
  loop: Loop, params: Params, carry: Carry, stream: PyTree, probe: Carry | None
) -> tuple[Carry, PyTree]:
  del probe

  def body(carry: Carry, inputs: PyTree) -> tuple[Carry, PyTree]:
    return loop.step(params, params, carry, inputs, None)

  # Runs where nothing is differentiated; `forward` and `backward` replace it elsewhere.
  return jax.lax.scan(body, carry, stream, reverse=loop.reverse, unroll=loop.unroll)


class Saved(NamedTuple):
  """What the forward pass leaves to the backward pass.

  Attributes:
    params: of the step.
    carry: initial carry.
    buffers: the stream's floats, overwritten as planned, and those that the forward loop allocated.
    others: leaves of the stream that are neither real nor complex.
    ys: outputs.
  """

  params: Params
  carry: Carry
  buffers: list[Array]
  others: list[Array]
  ys: PyTree[Array]


def forward(
  loop: Loop, params: Params, carry: Carry, stream: PyTree, probe: Carry | None
) -> tuple[tuple[Carry, PyTree], Saved]:
  """Returns ((final carry, ys), what `backward` needs)."""
  del probe
  floats, others = loop.split(stream)
  plan = make_plan(functools.partial(linearize, loop), params, carry, *_first((floats, others)))
  buffers = [*floats, *allocate(loop.num_steps, plan.forward_specs)]
  final, ys, buffers = forward_loop(loop, plan, params, carry, buffers, others)
  return (final, ys), Saved(params, carry, buffers, others, ys)


def backward(
  loop: Loop, saved: Saved, cotangents: tuple[Carry, PyTree]
) -> tuple[Params, Carry, PyTree, Carry | None]:
  """Returns the cotangents of params, carry, stream and probe."""
  carry_bar, ys_bar = cotangents
  # A step of zeros has every step's plan, and the residuals that are the same at every step.
  floats = saved.buffers[: loop.num_floats]
  blank = jax.tree.map(jnp.zeros_like, (carry_bar, *_first((floats, saved.others))))
  plan = make_plan(functools.partial(linearize, loop), saved.params, *blank)
  _, vjp = linearize(loop, saved.params, *blank)
  params_bar, carry_bar, buffers = reverse_loop(
    loop, plan, vjp, saved.params, saved.buffers, carry_bar, ys_bar
  )

  leaves = [leaf.all_steps(buffers, saved.carry, saved.ys, loop.reverse) for leaf in plan.carry]
  carries = jax.tree.unflatten(jax.tree.structure(saved.carry), leaves)
  recurrent_bar = [buffers[at] for at in plan.recurrent_bar]
  held_bar = recurrent_gradient(loop, saved.params, carries, saved.others, recurrent_bar)

  new_carry_bar = [buffers[at] for at in plan.new_carry_bar]
  norms = [scaled_norm(a, axis=tuple(range(2, a.ndim))) for a in new_carry_bar]
  probe_bar = jax.tree.unflatten(jax.tree.structure(carry_bar), norms) if loop.probed else None
  stream_bar = loop.join(buffers[: loop.num_floats], [None] * len(saved.others))
  return jax.tree.map(jnp.add, params_bar, held_bar), carry_bar, stream_bar, probe_bar


_run.defvjp(forward, backward)


def recurrent_gradient(
  loop: Loop,
  params: Params,
  carries: Carry,
  others: Sequence[Array],
  recurrent_bar: Sequence[Array],
) -> Params:
  """Returns the params' gradient through the recurrent product: of W_h, Σ_t h_{t−1}ᵀ ā_t.

  Args:
    loop: the loop.
    params: of the step.
    carries: before each step, leaves [T, B, ...].
    others: leaves of the stream that are neither real nor complex, [T, ...].
    recurrent_bar: ā, leaves [T, B, ...].
  """
  starts = jax.vmap(loop.start)(carries, loop.join([None] * loop.num_floats, others))
  rows = jax.tree.map(_merge, starts)
  products, vjp = jax.vjp(lambda params: loop.recur(params, rows), params)
  cotangent = jax.tree.unflatten(jax.tree.structure(products), map(_merge, recurrent_bar))
  return vjp(cotangent)[0]


def _strongly_typed(a: Array | np.ndarray) -> Array:
  return jax.lax.convert_element_type(a, a.dtype)


def _first(tree: PyTree[Array]) -> PyTree[Array]:
  """Returns the entries of the first step."""
  return jax.tree.map(lambda a: a[0], tree)


def _merge(a: Array) -> Array:
  """Reshapes [T, B, ...] to [T·B, ...]: XLA:CPU is several times slower at contracting two axes."""
  return a.reshape(-1, *a.shape[2:])
