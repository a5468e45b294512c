"""The gradient probe: zeros in, norms of cotangents out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array, Carry, Cell, floats_of, with_floats


def scaled_norm(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
  """Euclidean norm that neither underflows nor overflows on the way.

    ‖x‖ = ‖s x‖ / s      s a power of two: 1, unless squares would leave the range of floats

  In float32 a plain √(Σ x²) is 0 below 1e-19 and inf above 1.8e19; this one is right from 1e-38
  to 3e38. Zero stays 0, inf stays inf, NaN stays NaN.

  Args:
    x: real or complex array.
    axis: axes to reduce; all of them by default.
  Returns:
    The norm, real, in the precision of x, of x's shape without `axis`.
  """
  size = jnp.abs(x)
  plain = jax.lax.stop_gradient(jnp.sum(size**2, axis=axis, keepdims=True))
  # Squares below the first bound have lost digits, if they are not 0.
  largest = jnp.finfo(size.dtype).maxexp
  factor = 2.0 ** (3 * largest // 4)
  one = jnp.ones_like(plain)
  scale = jnp.where(jnp.isfinite(plain), one, one / factor)
  scale = jnp.where(plain < 2.0 ** (-5 * largest // 8), one * factor, scale)
  # Without the barrier XLA squares both factors on their own, which is what must not happen.
  scaled = jax.lax.optimization_barrier(size * scale)
  norm = jnp.sqrt(jnp.sum(scaled**2, axis=axis, keepdims=True)) / scale
  return jnp.squeeze(norm, axis=axis)


def tree_norm(tree: Any) -> Array:
  """`scaled_norm` of all leaves of a pytree together; the global gradient norm."""
  # As one vector: a norm is several reductions, and each of them would be compiled for every leaf.
  return scaled_norm(jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(tree)]))


@jax.custom_vjp
def _tap(leaf: Array, slot: Array) -> Array:
  del slot
  return leaf


def _tap_forward(leaf: Array, slot: Array) -> tuple[Array, int]:
  return leaf, slot.ndim


def _tap_backward(batch_ndim: int, cotangent: Array) -> tuple[Array, Array]:
  return cotangent, scaled_norm(cotangent, axis=tuple(range(batch_ndim, cotangent.ndim)))


_tap.defvjp(_tap_forward, _tap_backward)


def tap(carry: Carry, slots: Carry) -> Carry:
  """The identity on `carry`, whose backward pass puts the cotangent's norms into `slots`.

  Args:
    carry: leaves [..., H].
    slots: the same structure, leaves [...], zeros, None in the place of integers; their gradient
      is, for each leaf and example, ‖dL/dleaf‖.
  """
  tapped = jax.tree.map(_tap, floats_of(carry), slots)
  return with_floats(tapped, carry)


def gradient_probe(cell: Cell, num_steps: int, batch_size: int, dtype: Any = float) -> Carry:
  """Slots for `unroll(..., probe=)`, whose gradient is ‖dL/dh_t‖ for every step and example.

    grads, norms = jax.grad(loss, argnums=(0, 1))(params, probe)      norms[t, b] = ‖dL/dh_t[b]‖

  h_t is the carry that *leaves* step t (t counts from 0), and dL/dh_t its total derivative: through
  the output at t and through every later step. Each leaf of the carry has its own norm, the others
  taken as independent of it: an LSTM's `norms.cell` holds dL/dc_t at fixed h_t.

  The norm is of the loss as given: under a mean over B examples the norm of an example's own loss
  is B times this. It costs O(T·B) memory, and norms from 1e-38 to 3e38 come out right in float32.
  A probed `unroll` has no forward-mode derivative.

  Args:
    cell: the cell that will be unrolled.
    num_steps: T.
    batch_size: B.
    dtype: of the carry.
  Returns:
    Zeros [T, B] in the structure of the cell's carry; None in the place of integers.
  Raises:
    TypeError, ValueError: a size that is no integer of at least 1.
  """
  checks.integer("num_steps", num_steps)
  checks.integer("batch_size", batch_size)
  carry = jax.eval_shape(lambda: cell.initial_carry((batch_size,), dtype))
  return jax.tree.map(
    lambda leaf: jnp.zeros((num_steps, batch_size), np.zeros((), leaf.dtype).real.dtype),
    floats_of(carry),
  )
