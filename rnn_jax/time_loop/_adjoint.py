"""A recurrent scan whose reverse pass is written by hand.

When JAX differentiates a `lax.scan`, it keeps inputs, residuals and cotangents in separate arrays.
At every step it adds h_{t−1}ᵀ ā_t to the gradient of the recurrent kernel, where ā_t is the
cotangent of the recurrent product h_{t−1} W_h. The scan of this module differs in three ways:

  - Arrays are reused. In the forward pass, a step's residual overwrites an array entry of the same
    shape that is no longer needed. In the reverse pass, a cotangent overwrites the residual. For
    example, a drive [T, B, G·H] (the input's part of the pre-activations of G gates) is overwritten
    by the nonlinearity's derivative, which is later overwritten by the drive's cotangent ā.
  - ā is kept for all steps, so that the recurrent kernel's gradient is one product after the loop.
  - With a probe, dL/dh_t is kept for all steps, and its norms are computed after the loop. If no
    array can be reused for the dL/dh_t of some leaf of the carry, this leaf's norms are computed
    step by step instead.

Without differentiation, `scan` runs a plain `lax.scan`. Under reverse-mode differentiation it calls
`forward`, which runs `forward_loop`, and then `backward`, which runs `reverse_loop` and
`recurrent_gradient`. A `Plan`, from `_adjoint_plan`, assigns values to buffers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from rnn_jax.precision import at_least_float32
from rnn_jax.probes import cotangent_norm
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
from rnn_jax.types import Carry, Params, floats_of, with_floats


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
  """Runs `lax.scan` with the body `step(params, params, carry, inputs, None)`.

  Args:
    step: function that runs one step in time; see `Step`.
    start: function that applies resets and cuts to the carry before a step; see `Start`.
    recur: function that returns the recurrent product; see `Recur`.
    params: the params of `step`.
    carry: the initial carry, leaves [B, ...], real or complex.
    stream: the inputs of all steps, leaves [T, ...].
    probe: zeros from `gradient_probe`; their cotangent is ‖dL/dh_t‖. None for no norms.
    reverse: whether to run from the last step to the first.
    unroll: number of steps in one iteration of the compiled loop.
  Returns:
    (final carry, ys). Their reverse-mode derivative can be differentiated again, in forward or
    reverse mode. They have no forward-mode derivative.
  """
  # Both passes must arrive at the same plan. The backward pass plans from strongly typed zeros, so
  # weakly typed arguments such as `jnp.full(3, 2.0)` are converted here.
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
    in_order=jax.default_backend() == "cpu" and all(isinstance(n, int) and n > 1 for n in sizes),
  )
  # Norms are computed in at least float32, the probe's precision from here on.
  return _run(loop, params, carry, stream, at_least_float32(probe))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
  loop: Loop, params: Params, carry: Carry, stream: PyTree, probe: Carry | None
) -> tuple[Carry, PyTree]:
  del probe

  def body(carry: Carry, inputs: PyTree) -> tuple[Carry, PyTree]:
    return loop.step(params, params, carry, inputs, None)

  # Under differentiation, JAX runs `forward` and `backward` instead of this scan.
  return jax.lax.scan(body, carry, stream, reverse=loop.reverse, unroll=loop.unroll)


class Saved(NamedTuple):
  """The values that the forward pass saves for the backward pass.

  Attributes:
    params: the step's params.
    carry: the initial carry.
    buffers: the real and complex leaves of the stream, overwritten according to the plan, followed
      by the buffers that the forward loop allocated.
    others: leaves of the stream that are neither real nor complex.
    ys: the outputs of all steps.
  """

  params: Params
  carry: Carry
  buffers: list[Array]
  others: list[Array]
  ys: PyTree[Array]


def forward(
  loop: Loop, params: Params, carry: Carry, stream: PyTree, probe: Carry | None
) -> tuple[tuple[Carry, PyTree], Saved]:
  """Returns ((final carry, ys), the values saved for `backward`)."""
  del probe
  floats, others = loop.split(stream)
  plan = make_plan(functools.partial(linearize, loop), params, carry, *_first((floats, others)))
  buffers = [*floats, *allocate(loop.num_steps, plan.forward_specs, floats[0])]
  final, ys, buffers = forward_loop(loop, plan, params, carry, buffers, others)
  return (final, ys), Saved(params, carry, buffers, others, ys)


def backward(
  loop: Loop, saved: Saved, cotangents: tuple[Carry, PyTree]
) -> tuple[Params, Carry, PyTree, Carry | None]:
  """Returns the cotangents of params, initial carry, stream and probe."""
  carry_bar, ys_bar = cotangents
  # It suffices to linearize a step on zeros, because neither the plan nor the residuals that are
  # the same at every step depend on the values of carry and inputs.
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
  norms = [cotangent_norm(a, 2) for a in new_carry_bar]
  probe_bar = jax.tree.unflatten(jax.tree.structure(carry_bar), norms) if loop.probed else None
  stream_bar = loop.join(buffers[: loop.num_floats], [None] * len(saved.others))
  return jax.tree.map(jnp.add, params_bar, held_bar), carry_bar, stream_bar, probe_bar


def _always_traced(run: Callable[..., PyTree]) -> Callable[..., PyTree]:
  """Returns `run(loop, *arrays)`, traced even where the arrays are concrete.

  Both passes must see the step that the plan was made from. JAX leaves out operations on concrete
  arrays, such as a cast of the params in an eager call, and that changes the residuals.
  """
  return lambda loop, *arrays: jax.jit(functools.partial(run, loop), inline=True)(*arrays)


_run.defvjp(_always_traced(forward), _always_traced(backward))


def recurrent_gradient(
  loop: Loop,
  params: Params,
  carries: Carry,
  others: Sequence[Array],
  recurrent_bar: Sequence[Array],
) -> Params:
  """Returns the params' gradient through the recurrent product; for W_h it is Σ_t h_{t−1}ᵀ ā_t.

  The gradient has None in place of integer params.

  Args:
    loop: the static part of the scan.
    params: the step's params.
    carries: the carry before each step, leaves [T, B, ...].
    others: leaves of the stream that are neither real nor complex, [T, ...].
    recurrent_bar: ā, the cotangents of the recurrent products of all steps, leaves [T, B, ...].
  """
  starts = jax.vmap(loop.start)(carries, loop.join([None] * loop.num_floats, others))
  rows = jax.tree.map(_merge, starts)

  def product(floats: Params) -> PyTree:
    return loop.recur(with_floats(floats, params), rows)

  products, vjp = jax.vjp(product, floats_of(params))
  cotangent = jax.tree.unflatten(jax.tree.structure(products), map(_merge, recurrent_bar))
  return vjp(cotangent)[0]


def _strongly_typed(a: Array | np.ndarray) -> Array:
  return jax.lax.convert_element_type(a, jnp.result_type(a))


def _first(tree: PyTree[Array]) -> PyTree[Array]:
  """Returns the first step's entry of each leaf."""
  return jax.tree.map(lambda a: a[0], tree)


def _merge(a: Array) -> Array:
  """Reshapes [T, B, ...] to [T·B, ...], because XLA:CPU contracts one axis faster than two."""
  return a.reshape(-1, *a.shape[2:])
