"""Jacobians of single steps, and the norm and singular values of their product over many steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import from_vector, step_jacobian, to_vector
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
from rnn_jax.parallel import vary_alike
from rnn_jax.types import Carry, Cell, Drive, Params, Sequences, floats_of


def step_jacobians(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  carries: Sequence[Carry] | None = None,
) -> tuple[Float[Array, "T B N N"], ...]:
  """Returns the Jacobian of every step of each layer, along the trajectory for the inputs xs.

    J_t = ∂s_t/∂s_{t−1}        J[t, b, i, j] = ∂s_t[b, i] / ∂s_{t−1}[b, j]

  Convention: s is the layer's joint carry, i.e. the leaves of its carry concatenated into one
  vector of N real numbers; for an LSTM, first the hidden state, then the cell state. s_t is the
  joint carry after step t, counted from 0, and s_{−1} is the initial joint carry. The layer's
  inputs are held constant; for an upper layer these are the outputs of the layer below.

  Cost: N Jacobian-vector products per step and layer; memory for T·B·N² numbers per layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    carries: the initial carry of each layer, leaves [B, ...]; zeros if None.
  Returns:
    For each layer: J [T, B, N, N].
  Raises:
    TypeError, ValueError: if the arguments do not fit the layers.
  """
  passes = forward_layers(cells, params, xs, carries)

  def layer_jacobians(cell: Cell, run: Pass) -> Array:
    return jax.lax.map(lambda now: step_jacobian(cell, run.params, *now), (run.before, run.drives))

  return tuple(map(layer_jacobians, cells, passes))


def jacobian_norm(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  key: Key[Array, ""],
  num_probes: int = 16,
) -> tuple[Float[Array, "T B"], ...]:
  """Returns log₁₀ of the Frobenius norm of ∂s_T/∂s_{T−k}, k = 0 … T−1, estimated by random probes.

    E_v ‖vᵀ ∂s_T/∂s_{T−k}‖² = ‖∂s_T/∂s_{T−k}‖_F² = Σ_i σ_i²        v ~ N(0, I)

  The σ_i are the singular values of ∂s_T/∂s_{T−k}. The expectation is estimated by the mean over
  `num_probes` probes v, which are the same at all lags. The relative standard error of the squared
  norm is √(2 Σ σ_i⁴ / num_probes) / Σ σ_i². It is at most √(2/num_probes), and it approaches this
  bound if one σ_i dominates.

  Convention: one norm per example. s is a layer's joint carry as in `step_jacobians`; s_T denotes
  the joint carry after the last step. The initial carry is zero. Powers of two are kept in integer
  exponents, so norms as small as 10^-900 or as large as 10^+900 are correct.

  Cost: one reverse sweep per probe, all in parallel; memory for num_probes · T·B·N numbers per
  layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    key: draws the probes. Layers whose joint carries have the same size N use the same probes.
    num_probes: number of probes.
  Returns:
    For each layer: log₁₀ norms [T, B], with the lag on the first axis; −inf where the derivative is
    exactly zero.
  Raises:
    TypeError, ValueError: if `num_probes` is not an integer of at least 1, or if the arguments do
      not fit the layers.
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
  """Computes `jacobian_norm` for one layer, from its forward pass."""
  y_bars = unscaled(jnp.zeros_like(run.ys))
  first = jax.tree.map(lambda a: a[0], run.before)
  s = to_vector(first)

  def probe_norms(v: Array) -> Array:
    bar = Scaled(floats_of(from_vector(v, first)), y_bars.exponent[0])
    totals, _ = reverse_sweep(cell, run, y_bars, bar)
    return log10_norms(totals._replace(value=jax.vmap(to_vector)(totals.value)))[::-1]

  probes, _ = vary_alike((jax.random.normal(key, (num_probes, *s.shape), s.dtype), s))
  logs = jax.vmap(probe_norms)(probes)
  squares = jax.nn.logsumexp(2 * math.log(10) * logs, axis=0) - math.log(num_probes)
  return squares / (2 * math.log(10))


def singular_values(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  carries: Sequence[Carry] | None = None,
) -> tuple[Float[Array, "T B N"], ...]:
  """Returns log₁₀ of all singular values of ∂s_T/∂s_{T−k}, for the lags k = 0 … T−1.

    A_0 = I        A_k = V_k A_{k−1} J_{T−k+1}        σ_i = ‖row i of A_k‖

  J_t = ∂s_t/∂s_{t−1} is the Jacobian of step t. V_k is an orthogonal matrix, a product of plane
  rotations (one-sided Jacobi), that makes the rows of A_k orthogonal. Each row has its own integer
  exponent, so the smallest singular value is as accurate as the largest, even if one is 10^-900 and
  the other 10^+900. (An SVD of the product would lose all values below ε times the largest, where ε
  is the dtype's precision.) Each step adds a relative error of about ε times the condition number
  of J_t.

  Convention: one set of values per example. s is a layer's joint carry as in `step_jacobians`; s_T
  denotes the joint carry after the last step. If a step shrinks a direction to the size of the
  rounding errors, the singular value of that direction is −inf at that lag and at all longer ones.

  Cost: O(N³) per step and example, in a few sweeps over all pairs of rows. Reverse-mode
  differentiation is not supported.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    carries: the initial carry of each layer, leaves [B, ...]; zeros if None.
  Returns:
    For each layer: log₁₀ σ [T, B, N], with the lag on the first axis. On the last axis, the values
      are in descending order.
  Raises:
    TypeError, ValueError: if the arguments do not fit the layers.
  References:
    Demmel and Veselić, 1992 (accuracy), https://doi.org/10.1137/0613074
    Brent and Luk, 1985 (schedule: N/2 pairs at a time), https://doi.org/10.1137/0906007
  """
  passes = forward_layers(cells, params, xs, carries)
  return tuple(map(_product_values, cells, passes))


def _product_values(cell: Cell, run: Pass) -> Float[Array, "T B N"]:
  """Computes `singular_values` for one layer, from its forward pass."""

  def back(rows: Scaled, now: tuple[Carry, Drive]) -> tuple[Scaled, Array]:
    jacobian = step_jacobian(cell, run.params, *now)
    rows = jax.vmap(orthogonalize)(
      rows._replace(value=rows.value @ jacobian), jnp.abs(rows.value) @ jnp.abs(jacobian)
    )
    return rows, -jnp.sort(-log10_norms(rows))

  s = to_vector(jax.tree.map(lambda a: a[0], run.before))
  batch_size, size = s.shape
  identity = jnp.broadcast_to(jnp.eye(size, dtype=s.dtype), (batch_size, size, size))
  start = normalize(Scaled(identity, jnp.zeros((batch_size, size), jnp.int32)))
  start, s = vary_alike((start, s))
  later = jax.tree.map(lambda a: a[1:], (run.before, run.drives))
  # A plain scan, not `unroll`, because the cell has run already and this only multiplies Jacobians.
  _, logs = jax.lax.scan(back, start, later, reverse=True)
  return jnp.concatenate([jnp.zeros_like(s)[None], logs[::-1]])
