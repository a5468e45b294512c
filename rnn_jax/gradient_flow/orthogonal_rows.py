"""One-sided Jacobi: makes rows of very different lengths orthogonal, by rotations alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rnn_jax.gradient_flow.reverse_sweep import Scaled, normalize
from rnn_jax.powers import power_of_two

# More than needed: convergence is quadratic, with 5 to 11 sweeps for 8 to 128 rows.
_MAX_SWEEPS = 40


class _Row(NamedTuple):
  """Rows, and the standard deviation of each one's length that is due to rounding."""

  row: Float[Array, "*rows N"]
  noise: Float[Array, "*rows"]


def orthogonalize(rows: Scaled, bound: Float[Array, "M N"]) -> Scaled:
  """Returns V A for an orthogonal V that makes the rows of A orthogonal; their lengths are A's σ_i.

  Args:
    rows: A; value [M, N], and an exponent [M] for each row.
    bound: [M, N], the sums of the absolute values that were added up to the entries of `value`;
      times ε, they bound the entries' errors. A row no longer than its error is set to zero.
  Returns:
    V A, in the same form. Each pair of rows is orthogonal to about N ε times the product of its
    lengths, however far apart these are.
  """
  num_rows, size = rows.value.shape
  epsilon = jnp.finfo(bound.dtype).eps
  state = Scaled(_Row(rows.value, epsilon * jnp.linalg.norm(bound, axis=1)), rows.exponent)
  # A zero row is added to an odd number of rows, so that all can be paired.
  state = jax.tree.map(lambda a: jnp.pad(a, [(0, num_rows % 2)] + [(0, 0)] * (a.ndim - 1)), state)
  half = state.exponent.shape[0] // 2

  def play_round(state: Scaled, _: None) -> tuple[Scaled, Float[Array, ""]]:
    x = jax.tree.map(lambda a: a[:half], state)
    y = jax.tree.map(lambda a: a[half:][::-1], state)
    x, y, cosine = _rotate(x, y)
    # A round-robin tournament by the circle method: the first row stays, the others move on.
    state = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[:1], a[1:], b[:0:-1]]), x, y)
    return normalize(state), jnp.max(cosine)

  Loop = tuple[Scaled, Int[Array, ""], Float[Array, ""]]

  def sweep(loop: Loop) -> Loop:
    state, count, _ = loop
    # Not a scan over time: the rounds of the tournament, in which every row meets every other.
    state, cosines = jax.lax.scan(play_round, state, None, length=2 * half - 1)
    return state, count + 1, jnp.max(cosines)

  def unfinished(loop: Loop) -> Array:
    _, count, cosine = loop
    return (count < _MAX_SWEEPS) & (cosine > size * epsilon)

  start = (normalize(state), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, bound.dtype))
  state, _, _ = jax.lax.while_loop(unfinished, sweep, start)
  row, noise = state.value
  rounding = jnp.linalg.norm(row, axis=1) <= noise
  row = jnp.where(rounding[:, None], jnp.zeros_like(row), row)
  return normalize(jax.tree.map(lambda a: a[:num_rows], Scaled(row, state.exponent)))


def _rotate(x: Scaled, y: Scaled) -> tuple[Scaled, Scaled, Float[Array, " half"]]:
  """Rotates each pair of rows x and y in their plane, so that they become orthogonal.

    x' = c (x + t y)      y' = c (y − t x)      t = 2 x·y / (d ± √(d² + 4 (x·y)²)),  d = x² − y²

  With exponents taken out, the rotation needs r t and t / r, where r ≤ 1 is the ratio of the
  smaller power of two to the larger one: τ = t / r is finite even where r and t are zero.

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
