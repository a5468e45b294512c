"""Jacobians of single steps, and the norm and singular values of their products over many steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import from_vector, linearized_step, to_vector
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.gradient_flow.orthogonal_rows import orthogonalize
from rnn_jax.gradient_flow.reverse_sweep import (
  Pass,
  Scaled,
  log10_norms,
  normalize,
  reverse_sweep,
  unscaled,
)
from rnn_jax.types import Carry, Cell, Drive, Params, Sequences, floats_of


def step_jacobians(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  carries: Sequence[Carry] | None = None,
) -> tuple[Float[Array, "T B N N"], ...]:
  """Returns the Jacobians of all steps of each layer, along the trajectory that xs drives.

    J_t = ∂s_t/∂s_{t−1}        J[t, b, i, j] = ∂s_t[b, i] / ∂s_{t−1}[b, j]

  Convention: s is the joint carry of the layer as one vector: its leaves one after another, an
  LSTM's hidden before its cell. s_t leaves step t, counted from 0; s_{−1} is the initial carry. The
  inputs of the layer, the outputs of the layer below, are held constant.

  Cost: N Jacobian-vector products a step, T·B·N² numbers a layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    carries: s_{−1} of each layer, leaves [B, ...]; zeros if None.
  Returns:
    For each layer: J [T, B, N, N].
  Raises:
    TypeError, ValueError: arguments that do not fit the layers.
  """
  passes = forward_layers(cells, params, xs, carries)

  def layer_jacobians(cell: Cell, run: Pass) -> Array:
    return jax.lax.map(lambda now: _jacobian(cell, run.params, *now), (run.before, run.drives))

  return tuple(map(layer_jacobians, cells, passes))


def jacobian_norm(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  key: Key[Array, ""],
  num_probes: int = 16,
) -> tuple[Float[Array, "T B"], ...]:
  """Returns log₁₀ of the Frobenius norm of ∂s_T/∂s_{T−k}, k = 0 … T−1, by random probes.

    E_v ‖vᵀ ∂s_T/∂s_{T−k}‖² = ‖∂s_T/∂s_{T−k}‖_F² = Σ_i σ_i²        v ~ N(0, I)

  The mean is over `num_probes` probes, the same ones at all lags. The relative standard error of
  the square is √(2 Σ σ_i⁴ / num_probes) / Σ σ_i²: at most √(2/num_probes), which it reaches where
  one σ outgrows the rest.

  Convention: per example; s is the joint carry of a layer as in `step_jacobians`, s_T leaves the
  last step, and the run starts from a carry of zeros. Powers of two are counted separately, so
  10^-900 and 10^+900 come out right.

  Cost: one reverse sweep a probe, all probes in parallel: num_probes · T·B·N numbers a layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    key: draws the probes; layers of the same size share them.
    num_probes: number of probes.
  Returns:
    For each layer: log₁₀ norms [T, B], the lag on the first axis; −inf where the derivative is
    exactly zero.
  Raises:
    TypeError, ValueError: num_probes is not an integer of at least 1, or arguments do not fit the
      layers.
  References:
    Hutchinson, 1989, https://doi.org/10.1080/03610918908812806
  """
  checks.key("key", key)
  checks.integer("num_probes", num_probes)
  passes = forward_layers(cells, params, xs)
  norms = [
    _probed_norm(cell, run, key, num_probes) for cell, run in zip(cells, passes, strict=True)
  ]
  return tuple(norms)


def _probed_norm(cell: Cell, run: Pass, key: Array, num_probes: int) -> Float[Array, "T B"]:
  """Returns the `jacobian_norm` of one layer."""
  y_bars = unscaled(jnp.zeros_like(run.ys))
  first = jax.tree.map(lambda a: a[0], run.before)
  s = to_vector(first)

  def probe_norms(v: Array) -> Array:
    bar = Scaled(floats_of(from_vector(v, first)), y_bars.exponent[0])
    totals, _ = reverse_sweep(cell, run, y_bars, bar)
    return log10_norms(totals._replace(value=jax.vmap(to_vector)(totals.value)))[::-1]

  logs = jax.vmap(probe_norms)(jax.random.normal(key, (num_probes, *s.shape), s.dtype))
  squares = jax.nn.logsumexp(2 * math.log(10) * logs, axis=0) - math.log(num_probes)
  return squares / (2 * math.log(10))


def singular_values(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  carries: Sequence[Carry] | None = None,
) -> tuple[Float[Array, "T B N"], ...]:
  """Returns log₁₀ of all singular values of ∂s_T/∂s_{T−k}, k = 0 … T−1, however far apart.

    A_0 = I        A_k = V_k A_{k−1} J_{T−k+1}        σ_i = ‖row i of A_k‖

  V_k is the rotation that makes the rows of A_k orthogonal, plane by plane (one-sided Jacobi). Each
  row has its own exponent, and the smallest is as exact as the largest: all are right at 10^-900
  and 10^+900 at once, where an SVD of the product loses everything below ε of the largest. A step
  adds a relative error of about ε times the condition number of J_t.

  Convention: per example; s is the joint carry of a layer as in `step_jacobians`, and s_T leaves
  the last step. A direction of which a step leaves no more than its rounding errors is lost: −inf
  from there on.

  Cost: O(N³) a step and example, in a few sweeps over all pairs of rows. It has no derivative in
  reverse mode.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    carries: s_{−1} of each layer, leaves [B, ...]; zeros if None.
  Returns:
    For each layer: log₁₀ σ [T, B, N], the lag on the first axis, in descending order.
  Raises:
    TypeError, ValueError: arguments that do not fit the layers.
  References:
    Demmel and Veselić, 1992 (accuracy), https://doi.org/10.1137/0613074
    Brent and Luk, 1985 (all pairs, N/2 at a time), https://doi.org/10.1137/0906007
  """
  passes = forward_layers(cells, params, xs, carries)
  return tuple(map(_product_values, cells, passes))


def _product_values(cell: Cell, run: Pass) -> Float[Array, "T B N"]:
  """Returns the `singular_values` of one layer."""

  def back(rows: Scaled, now: tuple[Carry, Drive]) -> tuple[Scaled, Array]:
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
  # Not `unroll`: the cell has already run, and this multiplies the Jacobians along its trajectory.
  _, logs = jax.lax.scan(back, start, later, reverse=True)
  return jnp.concatenate([jnp.zeros_like(s)[None], logs[::-1]])


def _jacobian(cell: Cell, params: Params, before: Carry, drive: Drive) -> Float[Array, "B N N"]:
  """Returns ∂s_t/∂s_{t−1} of one step."""
  s = to_vector(before)
  product = linearized_step(cell, params, before, drive)
  columns = jax.vmap(lambda e: product(jnp.broadcast_to(e, s.shape)), out_axes=2)
  return columns(jnp.eye(s.shape[1], dtype=s.dtype))
