"""The objective of gradient flossing: squared Lyapunov exponents, to be pushed toward zero."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.gradient_flow.lyapunov import lyapunov_spectrum
from rnn_jax.types import Cell, Params, Sequences


def flossing(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  num_exponents: int = 1,
  skip: int = 0,
) -> tuple[Float[Array, ""], ...]:
  """Returns the sum of the squares of the leading Lyapunov exponents of each layer.

    F = Σ_{i ≤ m} λ_i²        for each example, then averaged over the batch

  Where λ_i = 0, perturbations of the carry in m directions, and so gradients, neither grow nor
  decay through time. `jax.grad` of F is its exact gradient: it includes how the trajectory depends
  on the params, and the derivative of the QR decompositions.

  Convention: as for `lyapunov_spectrum`: in nats per step, over the joint carry, with the layer's
  inputs held constant in the exponents, but not in the gradient, which includes the way through the
  layers below. Where a step Jacobian is singular on the m directions, an exponent is −∞ and the
  gradient NaN; choose a smaller m.

  Cost: that of `lyapunov_spectrum`; a gradient takes about three times as long and stores Q_t and
  R_t of all steps, T·B·N·m numbers.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    num_exponents: m, from 1 to the size N of the smallest joint carry.
    skip: number of steps at the start to leave out; see `lyapunov_spectrum`.
  Returns:
    For each layer: F, a scalar.
  Raises:
    TypeError, ValueError: as `lyapunov_spectrum` raises.
  References:
    Engelken, 2023, https://arxiv.org/abs/2312.17306
  """
  spectra = lyapunov_spectrum(cells, params, xs, num_exponents=num_exponents, skip=skip)
  return tuple(jnp.mean(jnp.sum(exponents**2, axis=1)) for exponents in spectra)
