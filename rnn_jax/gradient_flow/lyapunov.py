"""Lyapunov exponents of recurrent layers: growth rates of small perturbations of the carry."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import joint_size, linearized_step, to_vector
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.gradient_flow.reverse_sweep import Pass
from rnn_jax.parallel import vary_alike
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

  J_t = ∂s_t/∂s_{t−1} along the trajectory for the inputs xs. s is the joint carry, an LSTM's hidden
  and cell together (holding the cell constant would give a different spectrum). If λ_1 > 0, the
  layer is chaotic and gradients grow as e^{λ_1 k} over k steps. If λ_1 < 0, memory fades as
  e^{λ_1 k}. λ_1 + … + λ_m is the growth rate of m-dimensional volumes; the sum of all N exponents
  is the mean of ln |det J_t|.

  Convention: one spectrum per example, in nats per step. The layer's inputs are held constant. Q_0
  is random, but the same for all examples and calls. Q_t converges to the leading directions, so
  the exponents of a long run come in descending order without sorting. Their error decays as 1/T,
  or faster if `skip` leaves out the transient. If the J_t are singular, an exponent is −∞ in exact
  arithmetic. The result is then −inf or, where rounding errors replace zeros, about ln ε (−16 in
  float32, −36 in float64), where ε is the dtype's precision.

  Cost: one forward pass, then O(N² m + N m²) per step, layer and example; memory for the carries
  and drives of all steps. On CPU, the QR decompositions run in OpenBLAS, whose threads compete with
  those of JAX. With OPENBLAS_NUM_THREADS=1 in the environment, N = m = 128 is 3 to 12 times faster
  on two cores. In a program on several CPU devices, decompositions of a batch may deadlock. Set
  PJRT_NPROC in the environment to 16 times the number of devices.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    num_exponents: m, from 1 to the size N of the smallest joint carry (see `joint_size`). If None,
      all N exponents of each layer are computed.
    carries: the initial carry of each layer, leaves [B, ...]; zeros if None.
    skip: number of steps at the start to leave out of the mean, while the carry and Q_t settle;
      from 0 to T − 1.
  Returns:
    For each layer: λ [B, m].
  Raises:
    TypeError, ValueError: if m is larger than a joint carry, if `skip` leaves no step, or if the
      arguments do not fit the layers.
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
  """Computes `lyapunov_spectrum` for one layer, from its forward pass."""
  s = to_vector(jax.tree.map(lambda a: a[0], run.before))
  batch_size, size = s.shape
  m = size if num_exponents is None else num_exponents

  def forward(q: Array, now: tuple[Carry, Drive]) -> tuple[Array, Array]:
    columns = jax.vmap(linearized_step(cell, run.params, *now), in_axes=2, out_axes=2)
    q, r = jnp.linalg.qr(columns(q))
    return q, jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))

  # Q_0 is random, because columns of the identity would never turn to the leading directions if the
  # units do not interact.
  q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size), s.dtype)[:, :m])
  q, _ = vary_alike((jnp.broadcast_to(q, (batch_size, size, m)), s))
  # A plain scan, not `unroll`, because the cell has already run and this only propagates tangents.
  _, logs = jax.lax.scan(forward, q, (run.before, run.drives))
  return jnp.mean(logs[skip:], axis=0)
