"""One-sided Jacobi: rows of very different lengths, made orthogonal by rotations alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.gradient_flow.reverse_sweep import Scaled, normalize
from rnn_jax.powers import power_of_two
from rnn_jax.types import Array

# More than it takes: convergence is quadratic, 5 to 11 sweeps for 8 to 128 rows.
_MOST_SWEEPS = 40


class _Row(NamedTuple):
  """Rows, and how much of each may be rounding: the standard deviation of its length."""

  row: Array  # [..., N]
  noise: Array  # [...]


def orthogonalize(rows: Scaled, bound: Array) -> Scaled:
  """V A for an orthogonal V that makes the rows of A orthogonal: their lengths are A's σ_i.

  Args:
    rows: A; value [M, N], and an exponent [M] for each row.
    bound: [M, N], sizes of what was added up to the entries of `value`, and so, times ε, of their
      errors. A row that comes out no longer than its error is set to zero.
  Returns:
    V A, likewise. Each pair of rows is orthogonal to about N ε of the product of its lengths, far
    apart as they may be.
  """
  num_rows, size = rows.value.shape
  epsilon = jnp.finfo(bound.dtype).eps
  state = Scaled(_Row(rows.value, epsilon * jnp.linalg.norm(bound, axis=1)), rows.exponent)
  # Pairs need an even number of rows.
  state = jax.tree.map(lambda a: jnp.pad(a, [(0, num_rows % 2)] + [(0, 0)] * (a.ndim - 1)), state)
  half = state.exponent.shape[0] // 2

  def meet(state: Scaled, _: None) -> tuple[Scaled, Array]:
    x = jax.tree.map(lambda a: a[:half], state)
    y = jax.tree.map(lambda a: a[half:][::-1], state)
    x, y, cosine = _rotate(x, y)
    # Around a table with one fixed seat: after all rounds everyone has met everyone.
    state = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[:1], a[1:], b[:0:-1]]), x, y)
    return normalize(state), jnp.max(cosine)

  def sweep(loop: Any) -> Any:
    state, count, _ = loop
    # Not time: the rounds of a tournament, in each of which every row meets another.
    state, cosines = jax.lax.scan(meet, state, None, length=2 * half - 1)
    return state, count + 1, jnp.max(cosines)

  def unfinished(loop: Any) -> Array:
    _, count, cosine = loop
    return (count < _MOST_SWEEPS) & (cosine > size * epsilon)

  start = (normalize(state), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, bound.dtype))
  state, _, _ = jax.lax.while_loop(unfinished, sweep, start)
  row, noise = state.value
  rounding = jnp.linalg.norm(row, axis=1) <= noise
  row = jnp.where(rounding[:, None], jnp.zeros_like(row), row)
  return normalize(jax.tree.map(lambda a: a[:num_rows], Scaled(row, state.exponent)))


def _rotate(x: Scaled, y: Scaled) -> tuple[Scaled, Scaled, Array]:
  """Rotates rows x and y, pair by pair, in their plane until they are orthogonal.

    x' = c (x + t y)      y' = c (y − t x)      t = 2 x·y / (d ± √(d² + 4 (x·y)²)),  d = x² − y²

  With exponents taken out it is r t and t / r that are needed, where r ≤ 1 is the ratio of the
  smaller one's power of two to the larger one's: τ = t / r is finite where r and t are zero.

  Returns:
    (x', y', |cosine| of the angle that was between them).
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

  def turned(a: _Row, b: _Row, share: Array) -> _Row:
    row = c[:, None] * a.row + share[:, None] * b.row
    return _Row(row, jnp.sqrt((c * a.noise) ** 2 + (share * b.noise) ** 2))

  product = uu * vv
  cosine = jnp.where(product > 0, jnp.abs(uv) / jnp.sqrt(product), zero)
  return (
    x._replace(value=turned(x.value, y.value, to_x)),
    y._replace(value=turned(y.value, x.value, to_y)),
    cosine,
  )
