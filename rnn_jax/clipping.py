"""Clipping: of the gradient, as optax transformations; of dL/dh_t, on the way back through time."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import checks
from rnn_jax.powers import exponent_of, power_of_two
from rnn_jax.probes import scaled_norm, tree_norm
from rnn_jax.types import Array, Carry


def check(name: str, threshold: Any) -> None:
  """Refuses a threshold that is no scalar above 0; inf, for no clipping, is one."""
  if isinstance(threshold, jax.core.Tracer):
    if threshold.ndim != 0 or not jnp.issubdtype(threshold.dtype, jnp.floating):
      raise TypeError(
        f"{name} must be a real scalar, got {threshold.dtype}{list(threshold.shape)}."
      )
  elif np.ndim(threshold) != 0 or threshold != math.inf:
    checks.number(name, threshold, above=0)


@jax.custom_vjp
def clip_cotangent(carry: Carry, threshold: Array) -> Carry:
  """The identity on `carry`, whose backward pass bounds the cotangent of every example.

    ḡ = g · min(1, c / ‖g‖)      ‖g‖² = Σ_leaves Σ |g|², of one example

  All leaves of the carry are one vector: an LSTM's dL/dh and dL/dc keep their proportion. What is
  not finite passes as it is, so that it is found rather than hidden; so does everything where c is
  inf. Norms beyond the range of squares, and of floats, are right. No derivative flows into c.

  Args:
    carry: leaves [B, ...]; integers among them have no cotangent, and no part in the norm.
    threshold: c, scalar.
  Returns:
    The carry.
  """
  del threshold
  return carry


def _forward(carry: Carry, threshold: Array) -> tuple[Carry, Array]:
  return carry, threshold


def _backward(threshold: Array, cotangent: Carry) -> tuple[Carry, Array]:
  leaves, structure = jax.tree.flatten(cotangent)
  moved = [g for g in leaves if jnp.issubdtype(g.dtype, jnp.inexact)]
  largest = functools.reduce(jnp.maximum, [_by_example(jnp.max, jnp.abs(g)) for g in moved])
  # A power of two for each example, with which no square leaves the range of floats. (A division by
  # the largest would be a product with its inverse, which is 0 for what is near the upper end.)
  float_range = jnp.finfo(largest.dtype)
  finite = jnp.isfinite(largest)
  power = -exponent_of(jax.lax.stop_gradient(jnp.where(finite, largest, jnp.ones_like(largest))))
  factor = power_of_two(jnp.clip(power, float_range.minexp, float_range.maxexp - 8), largest.dtype)
  scaled = [g * _like(factor, g) for g in moved]
  square = sum(_by_example(jnp.sum, jnp.abs(u) ** 2) for u in scaled)
  # The derivative of a root at zero is inf.
  norm = jnp.sqrt(jnp.where(largest == 0, jnp.ones_like(square), square))
  above = (norm > threshold * factor) & (largest > 0) & finite
  new = iter(
    jnp.where(_like(above, g, bool), u / _like(norm, g) * threshold.astype(g.dtype), g)
    for u, g in zip(scaled, moved, strict=True)
  )
  leaves = [next(new) if jnp.issubdtype(g.dtype, jnp.inexact) else g for g in leaves]
  return jax.tree.unflatten(structure, leaves), jnp.zeros_like(threshold)


def _by_example(reduce: Any, leaf: Array) -> Array:
  return reduce(leaf, axis=tuple(range(1, leaf.ndim)))


def _like(values: Array, leaf: Array, dtype: Any = None) -> Array:
  """Values [B], with the axes of a leaf [B, ...], and its dtype."""
  wide = jnp.expand_dims(values, tuple(range(1, leaf.ndim)))
  return wide.astype(leaf.dtype if dtype is None else dtype)


clip_cotangent.defvjp(_forward, _backward)


def was_clipped(norms: Sequence[Carry], threshold: Any) -> tuple[Array, ...]:
  """Where `clip_cotangent` acted: ‖dL/dh_t‖ > c, all leaves of a layer's carry together.

  Args:
    norms: of each layer, from its gradient probe, leaves [T, B]; of the loss that c is for.
    threshold: c, scalar.
  Returns:
    For each layer, [T, B] bool. False where the norm is not finite: that was not clipped.
  """

  def of_layer(norms: Carry) -> Array:
    joint = scaled_norm(jnp.stack(jax.tree.leaves(norms)), axis=0)
    return jnp.isfinite(joint) & (joint > threshold)

  return tuple(map(of_layer, norms))


class ClipState(NamedTuple):
  """State of the clipping in `make_optimizer`: what it did last.

  Attributes:
    clipped_norm: global norm of the gradient after clipping.
    clipped: 1 where that changed the gradient, else 0.
  """

  clipped_norm: Array
  clipped: Array


def noted(clip: optax.GradientTransformation) -> optax.GradientTransformation:
  """A stateless clipping whose state is a ClipState."""

  def init(params: optax.Params) -> ClipState:
    zero = jax.tree.map(jnp.zeros_like, tree_norm(params))
    return ClipState(zero, zero)

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, ClipState]:
    del state
    clipped, _ = clip.update(updates, clip.init(params), params)
    pairs = zip(jax.tree.leaves(clipped), jax.tree.leaves(updates), strict=True)
    acted = jnp.stack([jnp.any(jnp.abs(new) < jnp.abs(old)) for new, old in pairs])
    norm = tree_norm(clipped)
    return clipped, ClipState(norm, jnp.any(acted).astype(norm.dtype))

  return optax.GradientTransformation(init, update)


def clip_by_global_norm(clip_norm: Any) -> optax.GradientTransformation:
  """optax's clipping, made right for clip_norm = inf and for norms beyond 1.8e19.

  There the square in optax's norm overflows: it would turn the update into NaN, or into zero.
  """

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    del params
    # A power of two changes no digit.
    scale = jnp.where(tree_norm(updates) > 1e18, 2.0**-70, 1.0)
    # The barrier keeps XLA from squaring both factors of a constant.
    small = jax.lax.optimization_barrier(jax.tree.map(lambda g: g * scale.astype(g.dtype), updates))
    clipped, state = optax.clip_by_global_norm(clip_norm * scale).update(small, state)

    def restore(g: Array, c: Array) -> Array:
      return jnp.where(jnp.isinf(clip_norm), g, c / scale.astype(c.dtype))

    return jax.tree.map(restore, updates, clipped), state

  return optax.GradientTransformation(optax.init_empty_state, update)
