"""Clipping of the params' gradient by optax, and of dL/dh_t inside backpropagation through time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Shaped

from rnn_jax import checks
from rnn_jax.powers import exponent_of, power_of_two
from rnn_jax.precision import at_least_float32
from rnn_jax.probes import scaled_norm, tree_norm
from rnn_jax.types import Carry


def check(name: str, threshold: Any) -> None:
  """Raises unless the threshold is a scalar above 0. A threshold of inf means no clipping."""
  # For a ragged list `np.ndim` would raise an error that does not name the argument.
  other = isinstance(threshold, jax.core.Tracer | Sequence)
  if other or np.ndim(threshold) != 0 or np.asarray(threshold) != math.inf:
    checks.number(name, threshold, above=0)


def clip_cotangent(carry: Carry, threshold: ArrayLike) -> Carry:
  """Returns `carry`. In the backward pass, clips each example's cotangent to a norm of at most c.

    ḡ = g · min(1, c / ‖g‖)      ‖g‖² = Σ_leaves Σ |g|², for each example

  All leaves of the carry count as one vector, so that an LSTM's dL/dh and dL/dc keep their ratio.
  A non-finite cotangent passes unchanged, so that it is detected rather than hidden. With c = inf
  every cotangent passes unchanged. The result is accurate even if the norm or its square is outside
  the range of floats. No derivative flows into c. In half precision, norms are computed in float32.

  Args:
    carry: leaves [B, ...]. Integer leaves have no cotangent and are left out of the norm.
    threshold: c.
  Raises:
    TypeError, ValueError: if c is not a scalar above 0, or if the leaves differ in B.
  """
  check("threshold", threshold)
  if len({jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(carry)} - {()}) != 1:
    raise ValueError(f"carry must have leaves [B, ...] of one B, got {checks.shapes(carry)}.")
  limit = jnp.asarray(threshold)
  return _clipped(
    carry, limit if jnp.issubdtype(limit.dtype, jnp.floating) else limit.astype(float)
  )


@jax.custom_vjp
def _clipped(carry: Carry, threshold: Float[Array, ""]) -> Carry:
  del threshold
  return carry


def _forward(carry: Carry, threshold: Array) -> tuple[Carry, Array]:
  return carry, threshold


def _backward(threshold: Array, cotangent: Carry) -> tuple[Carry, Array]:
  leaves, structure = jax.tree.flatten(cotangent)
  floats = [at_least_float32(g) for g in leaves if jnp.issubdtype(g.dtype, jnp.inexact)]
  largest = functools.reduce(jnp.maximum, [_by_example(jnp.max, jnp.abs(g)) for g in floats])
  # Scale each example by a power of two, so that no square leaves the range of floats. (Dividing by
  # the largest entry would fail near the upper end of that range, because XLA multiplies by the
  # reciprocal instead, which underflows to 0.)
  float_range = jnp.finfo(largest.dtype)
  finite = jnp.isfinite(largest)
  power = -exponent_of(jax.lax.stop_gradient(jnp.where(finite, largest, jnp.ones_like(largest))))
  factor = power_of_two(jnp.clip(power, float_range.minexp, float_range.maxexp - 8), largest.dtype)
  scaled = [g * _like(factor, g) for g in floats]
  square = sum(_by_example(jnp.sum, jnp.abs(u) ** 2) for u in scaled)
  # Replace zeros by ones, because the square root's derivative at zero is inf.
  norm = jnp.sqrt(jnp.where(largest == 0, jnp.ones_like(square), square))
  limit = at_least_float32(threshold)
  above = (norm > limit * factor) & (largest > 0) & finite
  new = iter(
    jnp.where(_like(above, g, bool), u / _like(norm, g) * limit.astype(g.dtype), g)
    for u, g in zip(scaled, floats, strict=True)
  )
  leaves = [
    next(new).astype(g.dtype) if jnp.issubdtype(g.dtype, jnp.inexact) else g for g in leaves
  ]
  return jax.tree.unflatten(structure, leaves), jnp.zeros_like(threshold)


def _by_example(reduce: Callable[..., Array], leaf: Shaped[Array, "B ..."]) -> Shaped[Array, " B"]:
  return reduce(leaf, axis=tuple(range(1, leaf.ndim)))


def _like(
  values: Shaped[Array, " B"], leaf: Shaped[Array, "B ..."], dtype: DTypeLike | None = None
) -> Array:
  """Appends axes to `values` [B] until they broadcast with the leaf, and casts them.

  The result has the leaf's dtype if `dtype` is None.
  """
  wide = jnp.expand_dims(values, tuple(range(1, leaf.ndim)))
  return wide.astype(leaf.dtype if dtype is None else dtype)


_clipped.defvjp(_forward, _backward)


def was_clipped(norms: Sequence[Carry], threshold: ArrayLike) -> tuple[Bool[Array, "T B"], ...]:
  """Returns a mask for each layer, True where `clip_cotangent` changed an example's dL/dh_t.

  That is where ‖dL/dh_t‖ > c, with all leaves of the layer's carry as one vector.

  Args:
    norms: for each layer the gradient of its gradient probe, leaves [T, B]. The norms and c must
      belong to the same loss.
    threshold: c.
  Returns:
    A mask [T, B] for each layer. It is False where a norm is not finite, since non-finite
    cotangents are not clipped.
  Raises:
    TypeError, ValueError: if c is not a scalar above 0, or if `norms` is not a sequence of one
      pytree per layer with float leaves [T, B].
  """
  check("threshold", threshold)
  if not isinstance(norms, Sequence) or hasattr(norms, "_fields"):
    raise TypeError(f"norms must be a sequence, one entry a layer, got {type(norms).__name__}.")

  def in_layer(norms: Carry) -> Bool[Array, "T B"]:
    leaves = [checks.array("norms", leaf, "floats") for leaf in jax.tree.leaves(norms)]
    if len({leaf.shape for leaf in leaves}) != 1:
      raise ValueError(f"norms must have leaves [T, B] of one shape, got {checks.shapes(norms)}.")
    joint = scaled_norm(jnp.stack(leaves), axis=0)
    return jnp.isfinite(joint) & (joint > threshold)

  return tuple(map(in_layer, norms))


class ClipState(NamedTuple):
  """The state of the clipping transformation in `make_optimizer`: the effect of its last update.

  Attributes:
    clipped_norm: global norm of the gradient after clipping.
    clipped: 1 if clipping changed the gradient, else 0.
  """

  clipped_norm: Float[Array, ""]
  clipped: Float[Array, ""]


def with_clip_state(clip: optax.GradientTransformation) -> optax.GradientTransformation:
  """Returns a clipping transformation that acts like `clip` and has a `ClipState` as its state.

  `clip` must be stateless. `optax.snapshot` could not replace this function, because it sees the
  updates only after clipping and cannot tell whether clipping changed them. The fields of
  `ClipState` must keep their names, because checkpoints address leaves by name.

  Raises:
    TypeError: if `clip` is not an optax transformation.
  """
  checks.instance("clip", clip, optax.GradientTransformation)

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


def clip_by_global_norm(clip_norm: ArrayLike) -> optax.GradientTransformation:
  """Returns optax's clipping by global norm, corrected for clip_norm = inf and for large norms.

  If the norm exceeds 1.8e19, its square overflows in optax, and the update becomes NaN or zero.

  Raises:
    TypeError, ValueError: if `clip_norm` is not a scalar above 0.
  """
  check("clip_norm", clip_norm)
  return _without_overflow(optax.clip_by_global_norm, clip_norm)


def clip_adaptively(factor: ArrayLike) -> optax.GradientTransformation:
  """Returns optax's adaptive gradient clipping, corrected for large norms as clipping by norm is.

    g_u ← g_u · min(1, λ max(‖w_u‖, 10⁻³) / ‖g_u‖)        for each unit u

  A unit is a column of a kernel, all weights into one pre-activation, or a whole bias. Its update
  by gradient descent changes it by at most the share λ · learning rate of its norm. (Above a global
  norm of 1e18, units below 1e15 shrink more than the equation says; above 1e36, all become 0.)

  Args:
    factor: λ; inf for no clipping.
  Raises:
    TypeError, ValueError: if `factor` is not a scalar above 0. The transformation's `update` raises
      a ValueError without params.
  References:
    Brock et al., 2021, https://arxiv.org/abs/2102.06171
  """
  check("factor", factor)
  return _without_overflow(optax.adaptive_grad_clip, factor)


def _without_overflow(
  clip: Callable[[ArrayLike], optax.GradientTransformation], threshold: ArrayLike
) -> optax.GradientTransformation:
  """Returns `clip(threshold)`, applied to scaled gradients where their squares would overflow.

  Args:
    clip: makes a stateless transformation. Scaling gradients and threshold must scale its result.
    threshold: the threshold; inf for no clipping.
  """

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    # The scale is a power of two, so that scaling causes no rounding error.
    scale = jnp.where(tree_norm(updates) > 1e18, 2.0**-70, 1.0)
    # Without the barrier XLA would square both factors separately, and the square of g would
    # overflow.
    small = jax.lax.optimization_barrier(jax.tree.map(lambda g: g * scale.astype(g.dtype), updates))
    clipped, state = clip(threshold * scale).update(small, state, params)

    def restore(g: Array, c: Array) -> Array:
      return jnp.where(jnp.isinf(threshold), g, c / scale.astype(c.dtype))

    return jax.tree.map(restore, updates, clipped), state

  return optax.GradientTransformation(optax.init_empty_state, update)
