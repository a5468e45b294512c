"""Lyapunov exponents of a recurrent network."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import linearized_step, to_vector
from rnn_jax.gradient_flow.reverse_sweep import forward_pass
from rnn_jax.types import Array, Carry, Cell, Params


def lyapunov_spectrum(
  cell: Cell,
  params: Params,
  xs: Array,
  num_exponents: int | None = None,
  *,
  carry: Carry | None = None,
  skip: int = 0,
) -> Array:
  """Leading Lyapunov exponents λ_1 … λ_m, by Benettin's method.

    Q_{t+1} R_t = J_t Q_t        λ_i = 1/(T − skip) Σ_{t ≥ skip} ln |(R_t)_ii|

  J_t = ∂s_t/∂s_{t−1} along the trajectory that xs drives, s the joint carry (an LSTM's hidden and
  cell together: with the cell held constant its spectrum would be another). λ_1 > 0 is chaos, and
  gradients that grow as e^{λ_1 k}; λ_1 < 0 is memory that fades at that rate. λ_1 + … + λ_m is the
  rate at which volumes of m dimensions grow; with all of them it is the mean of ln |det J_t|.

  Convention: per example; nats a step. Q_0 is random, the same for all examples and calls. It turns
  to the leading directions on the way, so the exponents come in descending order for a long run
  (not sorted here), and have an error that fades as 1/T, or sooner with `skip`. Where the J_t are
  singular in exact arithmetic an exponent is −∞: found as −inf, or near ln ε, −16 in float32 and
  −36 in float64, where rounding stands in for zero.

  Cost: a forward pass, and O(N² m + N m²) a step and example; memory for carries and drives
  of all steps.

  Args:
    cell: the cell; of a deep network, `rnn_jax.cells.stack(cells)`.
    params: of the cell.
    xs: [T, B, D], or tokens [T, B].
    num_exponents: m, from 1 to the size N of the joint carry; all N if None.
    carry: s_{−1}, leaves [B, ...]; zeros if None.
    skip: steps at the start that carry and Q_t are given to settle, from 0 to T − 1.
  Returns:
    λ [B, m].
  Raises:
    TypeError, ValueError: m larger than the carry, or skip that leaves no step.
  References:
    Benettin et al., 1980, https://doi.org/10.1007/BF02128236
    Vogt et al., 2022, https://doi.org/10.3389/fams.2022.818799
    Engelken et al., 2023, https://doi.org/10.1103/PhysRevResearch.5.043044
  """
  run = forward_pass(cell, params, xs, carry)
  num_steps = xs.shape[0]
  s = to_vector(jax.tree.map(lambda a: a[0], run.before))
  batch_size, size = s.shape
  m = size if num_exponents is None else checks.integer("num_exponents", num_exponents)
  if m > size:
    raise ValueError(
      f"num_exponents must be at most N = {size}, the size of the joint carry, got {m}."
    )
  if checks.integer("skip", skip, minimum=0) >= num_steps:
    raise ValueError(f"skip must be below T = {num_steps}, got {skip}.")

  def forward(q: Array, now: tuple) -> tuple[Array, Array]:
    columns = jax.vmap(linearized_step(cell, run.params, *now), in_axes=2, out_axes=2)
    q, r = jnp.linalg.qr(columns(q))
    return q, jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))

  # Not columns of the identity: where units do not act on each other, those would never leave it.
  q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size), s.dtype)[:, :m])
  q = jnp.broadcast_to(q, (batch_size, size, m))
  # Not `unroll`: the cell has run already, this carries tangents along its trajectory.
  _, logs = jax.lax.scan(forward, q, (run.before, run.drives))
  return jnp.mean(logs[skip:], axis=0)
