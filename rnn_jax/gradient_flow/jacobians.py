"""Jacobians of one step, and norm and singular values of their long products."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import from_vector, linearized_step, to_vector
from rnn_jax.gradient_flow.orthogonal_rows import orthogonalize
from rnn_jax.gradient_flow.reverse_sweep import (
  Scaled,
  forward_pass,
  log10_norms,
  normalize,
  reverse_sweep,
  unscaled,
)
from rnn_jax.types import Array, Carry, Cell, Drive, Params, floats_of


def step_jacobians(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Array:
  """Jacobians of all steps, along the trajectory that xs drives.

    J_t = ∂s_t/∂s_{t−1}        J[t, b, i, j] = ∂s_t[b, i] / ∂s_{t−1}[b, j]

  s is the joint carry as one vector: its leaves one after another, an LSTM's hidden before its
  cell. s_t leaves step t, counted from 0; s_{−1} is the initial carry.

  Cost: N Jacobian-vector products a step, T·B·N² numbers.

  Args:
    cell: the cell; of a deep network, `rnn_jax.cells.stack(cells)`.
    params: of the cell.
    xs: [T, B, D], or tokens [T, B].
    carry: s_{−1}, leaves [B, ...]; zeros if None.
  Returns:
    J [T, B, N, N].
  """
  run = forward_pass(cell, params, xs, carry)
  return jax.lax.map(lambda now: _jacobian(cell, run.params, *now), (run.before, run.drives))


def jacobian_norm(cell: Cell, params: Params, xs: Array, key: Array, num_probes: int = 16) -> Array:
  """log₁₀ of the Frobenius norm of ∂s_T/∂s_{T−k}, k = 0 … T−1, by random probes.

    E_v ‖vᵀ ∂s_T/∂s_{T−k}‖² = ‖∂s_T/∂s_{T−k}‖_F² = Σ_i σ_i²        v ~ N(0, I)

  The mean is over `num_probes` probes, the same ones at all lags. Relative standard error of the
  square: √(2 Σ σ_i⁴ / num_probes) / Σ σ_i², at most √(2/num_probes), where one σ outgrows the rest.

  Convention: per example; s the joint carry as in `step_jacobians`, from a carry of zeros, s_T that
  leaves the last step. Powers of two are counted apart, so 10^-900 and 10^+900 come out right.

  Cost: a reverse sweep a probe, side by side: num_probes · T·B·N numbers.

  Args:
    cell: the cell; of a deep network, `rnn_jax.cells.stack(cells)`.
    params: of the cell.
    xs: [T, B, D], or tokens [T, B].
    key: for the probes.
    num_probes: how many.
  Returns:
    log₁₀ norms [T, B], first axis the lag; −inf where the derivative is exactly zero.
  Raises:
    TypeError, ValueError: num_probes is no integer of at least 1.
  References:
    Hutchinson, 1989, https://doi.org/10.1080/03610918908812806
  """
  checks.integer("num_probes", num_probes)
  run = forward_pass(cell, params, xs)
  y_bars = unscaled(jnp.zeros_like(run.ys))
  first = jax.tree.map(lambda a: a[0], run.before)
  s = to_vector(first)

  def of_probe(v: Array) -> Array:
    bar = Scaled(floats_of(from_vector(v, first)), y_bars.exponent[0])
    totals, _ = reverse_sweep(cell, run, y_bars, bar)
    return log10_norms(totals._replace(value=jax.vmap(to_vector)(totals.value)))[::-1]

  logs = jax.vmap(of_probe)(jax.random.normal(key, (num_probes, *s.shape), s.dtype))
  squares = jax.nn.logsumexp(2 * math.log(10) * logs, axis=0) - math.log(num_probes)
  return squares / (2 * math.log(10))


def singular_values(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Array:
  """log₁₀ of all singular values of ∂s_T/∂s_{T−k}, k = 0 … T−1, however far apart they are.

    A_0 = I        A_k = V_k A_{k−1} J_{T−k+1}        σ_i = ‖row i of A_k‖

  V_k is the rotation that makes the rows of A_k orthogonal, plane by plane (one-sided Jacobi). Each
  row has an exponent of its own, and the smallest is kept as exact as the largest: all are right at
  10^-900 and 10^+900 at once, where an SVD of the product loses what is below ε of the largest. A
  step adds a relative error of about ε times the condition number of J_t.

  Convention: per example; s the joint carry as in `step_jacobians`, s_T that leaves the last step.
  A direction of which a step leaves no more than its rounding errors is lost: −inf from there on.

  Cost: O(N³) a step and example, a few sweeps over all pairs of rows. No derivative in reverse
  mode.

  Args:
    cell: the cell; of a deep network, `rnn_jax.cells.stack(cells)`.
    params: of the cell.
    xs: [T, B, D], or tokens [T, B].
    carry: s_{−1}, leaves [B, ...]; zeros if None.
  Returns:
    log₁₀ σ [T, B, N], first axis the lag, in descending order.
  References:
    Demmel and Veselić, 1992 (accuracy), https://doi.org/10.1137/0613074
    Brent and Luk, 1985 (all pairs, N/2 at a time), https://doi.org/10.1137/0906007
  """
  run = forward_pass(cell, params, xs, carry)

  def back(rows: Scaled, now: tuple) -> tuple[Scaled, Array]:
    jacobian = _jacobian(cell, run.params, *now)
    rows = jax.vmap(orthogonalize)(
      rows._replace(value=rows.value @ jacobian), jnp.abs(rows.value) @ jnp.abs(jacobian)
    )
    return rows, -jnp.sort(-log10_norms(rows))

  s = to_vector(jax.tree.map(lambda a: a[0], run.before))
  batch_size, size = s.shape
  identity = jnp.broadcast_to(jnp.eye(size, dtype=s.dtype), (batch_size, size, size))
  start = normalize(Scaled(identity, jnp.zeros((batch_size, size), jnp.int32)))
  later = jax.tree.map(lambda a: a[1:], (run.before, run.drives))
  # Not `unroll`: the cell has run already, this multiplies the Jacobians along its trajectory.
  _, logs = jax.lax.scan(back, start, later, reverse=True)
  return jnp.concatenate([jnp.zeros_like(s)[None], logs[::-1]])


def _jacobian(cell: Cell, params: Params, before: Carry, drive: Drive) -> Array:
  """∂s_t/∂s_{t−1} of one step: [B, N, N]."""
  s = to_vector(before)
  product = linearized_step(cell, params, before, drive)
  columns = jax.vmap(lambda e: product(jnp.broadcast_to(e, s.shape)), out_axes=2)
  return columns(jnp.eye(s.shape[1], dtype=s.dtype))
