"""Lyapunov exponents of a recurrent network."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import joint_size, linearized_step, to_vector
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.gradient_flow.reverse_sweep import Pass
from rnn_jax.types import Carry, Cell, Drive, Params, Sequences


def lyapunov_spectrum(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  num_exponents: int | None = None,
  carries: Sequence[Carry] | None = None,
  skip: int = 0,
) -> tuple[Float[Array, "B m"], ...]:
  """Returns the leading Lyapunov exponents λ_1 … λ_m of each layer, by Benettin's method.

    Q_{t+1} R_t = J_t Q_t        λ_i = 1/(T − skip) Σ_{t ≥ skip} ln |(R_t)_ii|

  J_t = ∂s_t/∂s_{t−1} along the trajectory that xs drives, where s is the joint carry (an LSTM's
  hidden and cell together: with the cell held constant the spectrum would be another). λ_1 > 0
  means chaos, and gradients that grow as e^{λ_1 k}; λ_1 < 0 means memory that fades at that rate.
  λ_1 + … + λ_m is the growth rate of m-dimensional volumes; over all N exponents it is the mean of
  ln |det J_t|.

  Convention: per example; nats a step; the inputs of a layer are held constant. Q_0 is random, the
  same for all examples and calls. It turns to the leading directions along the way, so the
  exponents of a long run come in descending order (they are not sorted), with an error that decays
  as 1/T, or sooner with `skip`. Where the J_t are singular in exact arithmetic an exponent is −∞:
  the result is −inf, or near ln ε (−16 in float32, −36 in float64) where rounding stands in for
  zero.

  Cost: one forward pass, and O(N² m + N m²) a step, layer and example; memory for the carries and
  drives of all steps.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    num_exponents: m, from 1 to N, the size of the smallest joint carry (see `joint_size`); all N
      exponents of each layer if None.
    carries: s_{−1} of each layer, leaves [B, ...]; zeros if None.
    skip: steps at the start for the carry and Q_t to settle, from 0 to T − 1.
  Returns:
    For each layer: λ [B, m].
  Raises:
    TypeError, ValueError: an m larger than a joint carry, a `skip` that leaves no step, or
      arguments that do not fit the layers.
  References:
    Benettin et al., 1980, https://doi.org/10.1007/BF02128236
    Vogt et al., 2022, https://doi.org/10.3389/fams.2022.818799
    Engelken et al., 2023, https://doi.org/10.1103/PhysRevResearch.5.043044
  """
  passes = forward_layers(cells, params, xs, carries)
  num_steps = len(passes[0].ys)
  if num_exponents is not None:
    checks.integer("num_exponents", num_exponents)
    smallest = min(map(joint_size, cells))
    if num_exponents > smallest:
      raise ValueError(
        f"num_exponents must be at most N = {smallest}, the size of the joint carry, "
        f"got {num_exponents}."
      )
  if checks.integer("skip", skip, minimum=0) >= num_steps:
    raise ValueError(f"skip must be below T = {num_steps}, got {skip}.")
  return tuple(
    _layer_spectrum(cell, run, num_exponents, skip) for cell, run in zip(cells, passes, strict=True)
  )


def _layer_spectrum(
  cell: Cell, run: Pass, num_exponents: int | None, skip: int
) -> Float[Array, "B m"]:
  """Returns the `lyapunov_spectrum` of one layer."""
  s = to_vector(jax.tree.map(lambda a: a[0], run.before))
  batch_size, size = s.shape
  m = size if num_exponents is None else num_exponents

  def forward(q: Array, now: tuple[Carry, Drive]) -> tuple[Array, Array]:
    columns = jax.vmap(linearized_step(cell, run.params, *now), in_axes=2, out_axes=2)
    q, r = jnp.linalg.qr(columns(q))
    return q, jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))

  # Random, not columns of the identity: those would never turn where units do not interact.
  q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size), s.dtype)[:, :m])
  q = jnp.broadcast_to(q, (batch_size, size, m))
  # Not `unroll`: the cell has already run, and this carries tangents along its trajectory.
  _, logs = jax.lax.scan(forward, q, (run.before, run.drives))
  return jnp.mean(logs[skip:], axis=0)
