"""The gradient probe (zeros whose gradient is ‖dL/dh_t‖), and norms without under- or overflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, PyTree

from rnn_jax import checks
from rnn_jax.precision import at_least_float32, wide
from rnn_jax.types import AnyArray, Carry, Cell, Shape, Size, floats_of, with_floats


def scaled_norm(
  x: Inexact[AnyArray, " ..."], axis: int | tuple[int, ...] | None = None
) -> Float[Array, " ..."]:
  """Returns the Euclidean norm, computed so that no square underflows or overflows.

    ‖x‖ = ‖s x‖ / s      s is 1, or a power of two if squares would leave the range of floats

  In float32 a plain √(Σ x²) is 0 below 1e-19 and inf above 1.8e19. This norm is accurate from 1e-38
  to 3e38. The norm of zeros is 0. With an inf in x the norm is inf, and with a NaN it is NaN.

  Args:
    x: real or complex array.
    axis: axes to reduce; all of them by default.
  Returns:
    The norm: real, with the precision of x and the shape of x without `axis`.
  Raises:
    TypeError: if x is not an array of floats or complex numbers.
  """
  size = jnp.abs(checks.array("x", x, "floats", "complex numbers"))
  plain = jax.lax.stop_gradient(jnp.sum(size**2, axis=axis, keepdims=True))
  # If `plain` is below the bound in the second `where`, squares may have lost digits or be zero.
  largest = jnp.finfo(size.dtype).maxexp
  factor = 2.0 ** (3 * largest // 4)
  one = jnp.ones_like(plain)
  scale = jnp.where(jnp.isfinite(plain), one, one / factor)
  scale = jnp.where(plain < 2.0 ** (-5 * largest // 8), one * factor, scale)
  # Without the barrier XLA would square both factors separately, and these squares would leave the
  # range of floats.
  scaled = jax.lax.optimization_barrier(size * scale)
  norm = jnp.sqrt(jnp.sum(scaled**2, axis=axis, keepdims=True)) / scale
  return jnp.squeeze(norm, axis=axis)


def tree_norm(tree: PyTree[Inexact[AnyArray, " ..."]]) -> Float[Array, ""]:
  """Returns the norm of all leaves as one vector; for a gradient, the global gradient norm.

  Raises:
    TypeError, ValueError: if a leaf is not an array of floats or complex numbers, or if there is no
      leaf.
  """
  leaves = jax.tree.leaves(tree)
  if not leaves:
    raise ValueError(f"tree must have at least one array, got {tree!r}.")
  leaves = [checks.array("tree", leaf, "floats", "complex numbers") for leaf in leaves]
  # The leaves are concatenated because a norm takes several reductions, which would otherwise be
  # compiled for every leaf.
  return scaled_norm(jnp.concatenate([jnp.abs(leaf).ravel() for leaf in leaves]))


def cotangent_norm(cotangent: Inexact[Array, " ..."], batch_ndim: int) -> Float[Array, "*batch"]:
  """Returns the norm over all axes after the batch axes, in at least float32."""
  return scaled_norm(at_least_float32(cotangent), axis=tuple(range(batch_ndim, cotangent.ndim)))


@jax.custom_vjp
def _tap(leaf: Inexact[Array, " ..."], probe: Float[Array, "*batch"]) -> Array:
  del probe
  return leaf


def _tap_forward(leaf: Array, probe: Array) -> tuple[Array, int]:
  return leaf, probe.ndim


def _tap_backward(batch_ndim: int, cotangent: Array) -> tuple[Array, Array]:
  return cotangent, cotangent_norm(cotangent, batch_ndim)


_tap.defvjp(_tap_forward, _tap_backward)


@jax.custom_vjp
def _tap_vector(leaf: Inexact[Array, " ..."], probe: Inexact[Array, " ..."]) -> Array:
  del probe
  return leaf


def _tap_vector_forward(leaf: Array, probe: Array) -> tuple[Array, None]:
  del probe
  return leaf, None


def _tap_vector_backward(_: None, cotangent: Array) -> tuple[Array, Array]:
  return cotangent, cotangent


_tap_vector.defvjp(_tap_vector_forward, _tap_vector_backward)


def tap(carry: Carry, probe: Carry, *, vectors: bool = False) -> Carry:
  """Returns `carry` unchanged; the norm of its cotangent becomes the probe's gradient.

  In the body of your own `jax.lax.scan`, pass the new carry through `tap`, and scan the probe, from
  `probe_like`, together with the inputs:

    def body(h, inputs):
      x, probe = inputs
      h = tap(cell(params, h, x), probe)
      return h, h

    h, hs = jax.lax.scan(body, h0, (xs, probe))

  Args:
    carry: leaves [*batch, ...], such as vectors [B, H] or matrices [B, P, P].
    probe: one step of the zeros from `probe_like`: leaves [*batch], with None in place of integer
      leaves. Its gradient is ‖dL/dleaf‖ for each leaf and example. For a carry in half precision,
      the probe may be in float32; so are then the norms, which are always computed in float32.
    vectors: whether the probe's gradient is dL/dleaf itself. The probe's leaves then have the
      shapes and dtypes of the carry's leaves.
  Returns:
    The carry.
  Raises:
    TypeError: if `vectors` is not a boolean.
    ValueError: if the probe does not match the carry in structure, dtype or batch size.
  """
  checks.boolean("vectors", vectors)
  floats = floats_of(carry)
  ndim = min(map(jnp.ndim, jax.tree.leaves(probe)), default=0)
  shapes = jax.tree.map(lambda a: _probe_leaf(a, (), ndim, vectors), floats)
  if vectors:
    checks.like("probe", shapes, probe)
    return with_floats(jax.tree.map(_tap_vector, floats, probe), carry)
  check_probe(shapes, probe)
  return with_floats(jax.tree.map(_tap, floats, at_least_float32(probe)), carry)


def check_probe(shapes: Carry, probe: Carry) -> None:
  """Checks a probe for norms against `probe_shapes`; float32 may replace a half precision.

  Raises:
    ValueError: if the probe differs from `shapes` in structure, shape or dtype.
  """
  given = {getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(probe)}
  if given == {np.dtype(np.float32)}:
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, wide(a.dtype)), shapes)
  checks.like("probe", shapes, probe)


def _probe_leaf(
  leaf: AnyArray | jax.ShapeDtypeStruct, steps: Shape, batch_ndim: int, vectors: bool
) -> jax.ShapeDtypeStruct:
  """Returns the shape and dtype of a probe's leaf: those of a carry's leaf, or of its norms."""
  if vectors:
    return jax.ShapeDtypeStruct((*steps, *leaf.shape), leaf.dtype)
  return jax.ShapeDtypeStruct((*steps, *leaf.shape[:batch_ndim]), jnp.finfo(leaf.dtype).dtype)


def probe_shapes(
  carry: Carry, num_steps: Size, batch_ndim: int = 1, *, vectors: bool = False
) -> Carry:
  """Returns the shapes and dtypes of `probe_like` for the same arguments, without checks."""
  return jax.tree.map(
    lambda leaf: _probe_leaf(leaf, (num_steps,), batch_ndim, vectors), floats_of(carry)
  )


def probe_like(
  carry: Carry, num_steps: int, batch_ndim: int = 1, *, vectors: bool = False
) -> Carry:
  """Returns the zeros that `tap` needs in a scan of `num_steps` steps.

  The loss's gradient with respect to these zeros is ‖dL/dh_t‖ for every step, leaf and example, or
  with `vectors` dL/dh_t itself. The docstring of `tap` shows such a scan; that of `gradient_probe`
  explains the norms.

  Args:
    carry: the scan's initial carry, or its shapes and dtypes: leaves [*batch, ...].
    num_steps: T.
    batch_ndim: number of batch axes of every leaf; 0 for the carry of a single example. Norms are
      taken over all axes after these.
    vectors: whether to return the zeros for `tap(..., vectors=True)`.
  Returns:
    Zeros in the structure of the carry, with None in place of integer leaves: [T, *batch], or
    [T, *batch, ...] with `vectors`.
  Raises:
    TypeError, ValueError: if an argument has the wrong type or is too small, or if a leaf of the
      carry has fewer than `batch_ndim` axes.
  """
  checks.integer("num_steps", num_steps)
  checks.integer("batch_ndim", batch_ndim, minimum=0)
  checks.boolean("vectors", vectors)
  for leaf in jax.tree.leaves(carry):
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
      raise TypeError(f"carry must hold arrays, got {checks.shown(leaf)}.")
  for path, leaf in jax.tree.leaves_with_path(floats_of(carry)):
    if leaf.ndim < batch_ndim:
      raise ValueError(
        f"carry must have at least batch_ndim = {batch_ndim} axes in every leaf, got "
        f"carry{jax.tree_util.keystr(path)} {list(leaf.shape)}."
      )
  shapes = probe_shapes(carry, num_steps, batch_ndim, vectors=vectors)
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def gradient_probe(cell: Cell, num_steps: int, batch_size: int, dtype: DTypeLike = float) -> Carry:
  """Returns zeros for `unroll(..., probe=)`, whose gradient is ‖dL/dh_t‖ at every step.

    grads, norms = jax.grad(loss, argnums=(0, 1))(params, probe)      norms[t, b] = ‖dL/dh_t[b]‖

  h_t is the carry that *leaves* step t (t counts from 0). dL/dh_t is the total derivative, through
  the output at step t and through every later step. Each leaf of the carry has its own norm, with
  the other leaves held constant: an LSTM's `norms.cell` is ‖dL/dc_t‖ at fixed h_t.

  The norms belong to the loss that is differentiated. If this loss is a mean over B examples, the
  norm for an example's own loss is B times as large. A probe costs O(T·B) memory. In float32, norms
  from 1e-38 to 3e38 are accurate. A probed `unroll` has no forward-mode derivative. To use a probe
  inside `jax.shard_map`, pass it as an argument that is split over devices like xs. Otherwise its
  gradient is the sum of the norms on all devices.

  Args:
    cell: the cell that will be unrolled.
    num_steps: T.
    batch_size: B.
    dtype: dtype of the carry.
  Returns:
    Zeros [T, B] in the structure of the cell's carry, with None in place of integer leaves.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, or if a size is below 1.
  """
  checks.instance("cell", cell, Cell)
  checks.float_dtype("dtype", dtype)
  checks.integer("num_steps", num_steps)
  checks.integer("batch_size", batch_size)
  carry = jax.eval_shape(lambda: cell.initial_carry((batch_size,), dtype))
  return probe_like(carry, num_steps)
