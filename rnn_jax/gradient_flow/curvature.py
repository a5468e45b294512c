"""Curvature of a loss: the extreme eigenvalues of its Hessian, by Lanczos' method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from matfree import decomp

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import check_loss
from rnn_jax.parallel import vary_alike
from rnn_jax.precision import at_least_float32
from rnn_jax.types import AnyArray, floats_of, with_floats


class Curvature(NamedTuple):
  """Two eigenvalues of the Hessian of a loss, and how far off they may be.

  Attributes:
    largest: the largest eigenvalue, called the sharpness.
    largest_error: some eigenvalue of the Hessian is at most this far from `largest`.
    leading: the eigenvalue of the largest absolute value, with its sign.
    leading_error: some eigenvalue of the Hessian is at most this far from `leading`.
  """

  largest: Float[Array, ""]
  largest_error: Float[Array, ""]
  leading: Float[Array, ""]
  leading_error: Float[Array, ""]


def curvature(
  loss: Callable[[PyTree], Array], params: PyTree[AnyArray], *, num_products: int = 20
) -> Curvature:
  """Returns the largest and the leading eigenvalue of the loss's Hessian H = ∂²L/∂params².

    H Q = Q T + β q eᵀ        T y = θ y        ‖H (Q y) − θ (Q y)‖ = β |y_m|

  m Hessian-vector products span a Krylov space with the orthonormal basis Q, in which H is the
  tridiagonal matrix T. An eigenvalue θ of T estimates one of H, and the norm of its residual,
  β |y_m|, bounds its distance from the closest eigenvalue of H. The estimate of the largest
  eigenvalue is never above it, and it converges fastest if the others are far away. With m = P, the
  number of params, both eigenvalues are exact.

  Gradient descent with learning rate η is stable only in directions whose curvature is below 2/η.
  Where gradients explode through time, so does curvature. For a linear unit h_T = w^T, the slope is
  dh_T/dw = T w^{T−1} and the curvature d²h_T/dw² = T (T − 1) w^{T−2}.

  Convention: all params form one vector, in which integer leaves are constants. Gradients are not
  truncated, unless the loss itself passes `truncation` to `unroll`. Q starts from a vector that is
  random, but the same in all calls. All Lanczos vectors are orthogonalized against all earlier
  ones. The errors leave out rounding: about ε ‖H‖, where ε is the dtype's precision. If params or
  loss are not finite, neither are the results.

  Cost: about 2 m backward passes (forward-over-reverse mode); memory for m·P numbers. In the loss,
  `unroll` or a network needs no forward_mode=True, but with it an LSTM's products are six times
  faster.

  Args:
    loss: `params -> scalar`; any function of `params` that has second derivatives, such as
      `lambda params: mean_loss(unroll(cell, params, xs, forward_mode=True)[1])`.
    params: pytree of real arrays, at which H is taken.
    num_products: m; at most P are used.
  Returns:
    A Curvature.
  Raises:
    TypeError, ValueError: if `num_products` is not an integer of at least 1, if the loss is not a
      real scalar, or if `params` has complex leaves or no real ones.
  References:
    Pearlmutter, 1994 (Hessian-vector products), https://doi.org/10.1162/neco.1994.6.1.147
    Ghorbani et al., 2019 (Lanczos for networks), https://arxiv.org/abs/1901.10159
    Cohen et al., 2021 (2/η), https://arxiv.org/abs/2103.00065
  """
  checks.integer("num_products", num_products)
  params = at_least_float32(jax.tree.map(jnp.asarray, params))
  check_loss(loss, params)
  floats = floats_of(params)
  leaves = jax.tree.leaves(floats)
  if not leaves or any(jnp.iscomplexobj(leaf) for leaf in leaves):
    raise TypeError(f"params must be a pytree of real arrays, got {checks.shapes(params):.200}.")
  point, unravel = ravel_pytree(floats)

  def flat_loss(point: Float[Array, " P"]) -> Float[Array, ""]:
    return loss(with_floats(unravel(point), params))

  gradient, product = jax.linearize(jax.grad(flat_loss), point)
  start, gradient = vary_alike(
    (jax.random.normal(jax.random.key(0), point.shape, point.dtype), gradient)
  )
  lanczos = decomp.tridiag_sym(
    min(num_products, point.size), materialize=False, reortho="full", custom_vjp=False
  )
  _, (diagonal, off_diagonal), residual, _ = lanczos(lambda v: product(v), start)
  return _extremes(diagonal, jnp.append(off_diagonal, jnp.linalg.norm(residual)))


def _extremes(diagonal: Float[Array, " m"], betas: Float[Array, " m"]) -> Curvature:
  """Returns the extreme eigenvalues of T with their errors.

  Args:
    diagonal: the diagonal of T.
    betas: the entries next to the diagonal, then β.
  """
  # If the Krylov space is invariant, the next β is about zero, and the division by it leaves a
  # vector that is not orthogonal to the others, or NaN. T is therefore truncated at the first β
  # below √ε, relative to T's entries. Beyond it the vectors are no longer semiorthogonal (inner
  # products at most √ε), which T needs to be accurate (Simon, 1984,
  # https://doi.org/10.1090/S0025-5718-1984-0725988-X).
  scale = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal), betas))
  broken = ~(betas > math.sqrt(jnp.finfo(betas.dtype).eps) * scale)
  last = len(betas) - 1
  cut = jnp.where(jnp.any(broken), jnp.argmax(broken), last)
  index = jnp.arange(len(betas))
  # T[0, 0] lies between T's extreme eigenvalues, so padding the diagonal with it changes neither.
  diagonal = jnp.where(index <= cut, diagonal, diagonal[0])
  off_diagonal = jnp.where(index < cut, betas, jnp.zeros_like(betas))[:-1]
  matrix = jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
  values, vectors = jnp.linalg.eigh(matrix)
  beta = jnp.nan_to_num(betas[cut])
  errors = jnp.where(jnp.isnan(values), values, beta * jnp.abs(vectors[cut]))
  leading = jnp.argmax(jnp.abs(values))
  return Curvature(values[-1], errors[-1], values[leading], errors[leading])
