"""One-sided Jacobi: rotations that orthogonalize a matrix's rows, accurate for rows of any norm."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rnn_jax.gradient_flow.reverse_sweep import Scaled, normalize
from rnn_jax.parallel import vary_alike
from rnn_jax.powers import power_of_two

# This is more than enough, because convergence is quadratic: 8 to 128 rows need 5 to 11 sweeps.
_MAX_SWEEPS = 40


class _Row(NamedTuple):
  """Rows of a matrix, and the standard deviation of the rounding error in each row's norm."""

  row: Float[Array, "*rows N"]
  noise: Float[Array, "*rows"]


def orthogonalize(rows: Scaled, bound: Float[Array, "M N"]) -> Scaled:
  """Returns V A, where V is an orthogonal matrix that makes the rows of V A orthogonal.

  The norms of the returned rows are the singular values of A.

  Args:
    rows: the matrix A [M, N], as `value` with an integer exponent [M] for each row.
    bound: [M, N], for each entry of `value` the sum of the absolute values of the terms that were
      added to compute it. Times ε, the dtype's precision, this sum bounds the entry's rounding
      error. A row whose norm is not above its rounding error is set to zero.
  Returns:
    V A, in the form of `rows`. The dot product of two rows is at most about N ε times the product
    of their norms, even if the norms differ by hundreds of orders of magnitude.
  """
  num_rows, size = rows.value.shape
  epsilon = jnp.finfo(bound.dtype).eps
  state = Scaled(_Row(rows.value, epsilon * jnp.linalg.norm(bound, axis=1)), rows.exponent)
  # An odd number of rows is padded with a zero row, so that all can be paired.
  state = jax.tree.map(lambda a: jnp.pad(a, [(0, num_rows % 2)] + [(0, 0)] * (a.ndim - 1)), state)
  half = state.exponent.shape[0] // 2

  def play_round(state: Scaled, _: None) -> tuple[Scaled, Float[Array, ""]]:
    x = jax.tree.map(lambda a: a[:half], state)
    y = jax.tree.map(lambda a: a[half:][::-1], state)
    x, y, cosine = _rotate(x, y)
    # Circle method of a round-robin tournament: the first row stays in place, the others rotate by
    # one, so that in 2·half − 1 rounds every row is paired with every other.
    state = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[:1], a[1:], b[:0:-1]]), x, y)
    return normalize(state), jnp.max(cosine)

  Loop = tuple[Scaled, Int[Array, ""], Float[Array, ""]]

  def sweep(loop: Loop) -> Loop:
    state, count, _ = loop
    # This scan runs over the tournament's rounds, not over time.
    state, cosines = jax.lax.scan(play_round, state, None, length=2 * half - 1)
    return state, count + 1, jnp.max(cosines)

  def unfinished(loop: Loop) -> Array:
    _, count, cosine = loop
    return (count < _MAX_SWEEPS) & (cosine > size * epsilon)

  start = vary_alike(
    (normalize(state), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, bound.dtype))
  )
  state, _, _ = jax.lax.while_loop(unfinished, sweep, start)
  row, noise = state.value
  rounding = jnp.linalg.norm(row, axis=1) <= noise
  row = jnp.where(rounding[:, None], jnp.zeros_like(row), row)
  return normalize(jax.tree.map(lambda a: a[:num_rows], Scaled(row, state.exponent)))


def _rotate(x: Scaled, y: Scaled) -> tuple[Scaled, Scaled, Float[Array, " half"]]:
  """Rotates each row of x and the corresponding row of y in their plane, to make them orthogonal.

    x' = c (x + t y)      y' = c (y − t x)      t = 2 x·y / (d ± √(d² + 4 (x·y)²)),  d = x² − y²

  The code rotates the stored values, which are x and y without their powers of two. For these
  values, one factor t becomes r t and the other t / r, where r ≤ 1 is the ratio of the smaller
  power to the larger. The code computes τ = t / r, because τ is finite even where r and t underflow
  to zero.

  Returns:
    (x', y', |cosine| of the angle between x and y).
  """
  u, v = x.value.row, y.value.row
  uu, vv, uv = jnp.sum(u * u, axis=1), jnp.sum(v * v, axis=1), jnp.sum(u * v, axis=1)
  one, zero = jnp.ones_like(uv), jnp.zeros_like(uv)
  difference = x.exponent - y.exponent
  x_larger = difference >= 0
  r = power_of_two(-jnp.abs(difference), uv.dtype)
  d = jnp.where(x_larger, uu - r**2 * vv, vv - r**2 * uu)
  denominator = jnp.abs(d) + jnp.sqrt(d**2 + (2 * r * uv) ** 2)
  tau = jnp.where(denominator > 0, 2 * uv / denominator, zero) * jnp.where(d < 0, -one, one)
  c = 1 / jnp.sqrt(1 + (r * tau) ** 2)
  to_x = c * jnp.where(x_larger, r**2 * tau, -tau)
  to_y = c * jnp.where(x_larger, -tau, r**2 * tau)

  def rotated(a: _Row, b: _Row, share: Array) -> _Row:
    row = c[:, None] * a.row + share[:, None] * b.row
    return _Row(row, jnp.sqrt((c * a.noise) ** 2 + (share * b.noise) ** 2))

  product = uu * vv
  cosine = jnp.where(product > 0, jnp.abs(uv) / jnp.sqrt(product), zero)
  return (
    x._replace(value=rotated(x.value, y.value, to_x)),
    y._replace(value=rotated(y.value, x.value, to_y)),
    cosine,
  )
