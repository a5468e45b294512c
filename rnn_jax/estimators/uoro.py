"""Unbiased online recurrent optimization: RTRL with a random rank-one influence matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._estimator import Estimator, shift_lags
from rnn_jax.estimators._forward import Derivatives, Rule, forward_estimator
from rnn_jax.estimators._vector_cell import VectorCell
from rnn_jax.gradient_flow.joint_carry import joint_size
from rnn_jax.probes import scaled_norm
from rnn_jax.types import Cell, Params

# (s̃ [S, N], θ̃ [S, K, P]), S samples and K lags.
RankOne = tuple[Float[Array, "S N"], Float[Array, "S K P"]]


@memoized
def uoro(samples: int = 1) -> Estimator:
  """Unbiased online recurrent optimization (UORO): a random rank-one influence matrix.

    M_t ≈ s̃_t θ̃_tᵀ                           dL/dθ ≈ Σ_t (δ_tᵀ s̃_t) θ̃_t
    s̃_t = ρ₀ J_t s̃_{t−1} + ρ₁ ν_t            θ̃_t = θ̃_{t−1} / ρ₀ + I_tᵀ ν_t / ρ₁
    ρ₀ = √(‖θ̃_{t−1}‖ / ‖J_t s̃_{t−1}‖)        ρ₁ = √(‖I_tᵀ ν_t‖ / ‖ν_t‖)

  ν_t has entries ±1 at random, so E ν νᵀ = I and E s̃ θ̃ᵀ = M. The factors ρ balance the norms of
  the two vectors, which minimizes the variance; a factor is 1 if one of its norms is 0. The
  variance grows with N.

  Shares of lags: the terms of θ̃_t are sorted by the lag k of their I_{t−k}ᵀ ν_{t−k}. Each share
  also contains products with the terms of s̃_t from other steps, whose expectation is zero.

  Cost per step: S (N² + P); memory: S (N + P) per example. Unbiased.

  Args:
    samples: S, the number of independent rank-one matrices, whose mean is used.
  Returns:
    An Estimator that is random.
  Raises:
    TypeError, ValueError: if S is not an integer of at least 1.
  References:
    Tallec and Ollivier, 2018, https://arxiv.org/abs/1702.05043
  """
  checks.integer("samples", samples)

  def make_rule(cell: Cell, params: Params, xs: Array, model: VectorCell) -> Rule:
    del params, xs
    size, dtype = joint_size(cell), model.theta.dtype

    def init(num_lags: int) -> RankOne:
      return (
        jnp.zeros((samples, size), dtype),
        jnp.zeros((samples, num_lags, model.theta.size), dtype),
      )

    def update(memory: RankOne, step: Derivatives) -> RankOne:
      signs = jax.random.rademacher(step.key, (samples, size), dtype)

      def one(s: Array, theta: Array, nu: Array) -> tuple[Array, Array]:
        moved, applied = step.jvp(s), step.vjp(nu)
        rho_0 = balance(jnp.sum(theta, axis=0), moved)
        rho_1 = balance(applied, nu)
        theta = (shift_lags(theta) / rho_0).at[0].add(applied / rho_1)
        return rho_0 * moved + rho_1 * nu, theta

      return jax.vmap(one)(*memory, signs)

    def gradient(memory: RankOne, delta: Float[Array, " N"]) -> Float[Array, "K P"]:
      s, theta = memory
      return jnp.einsum("i,si,skp->kp", delta, s, theta) / samples

    return Rule(init, update, gradient)

  return forward_estimator(make_rule, random=True)


def balance(a: Float[Array, " M"], b: Float[Array, " N"]) -> Float[Array, ""]:
  """Returns √(‖a‖ / ‖b‖), the factor on b that balances the norms of a/ρ and ρ b; 1 if one is 0."""
  norms = scaled_norm(a), scaled_norm(b)
  usable = (norms[0] > 0) & (norms[1] > 0)
  above, below = (jnp.where(usable, norm, jnp.ones_like(norm)) for norm in norms)
  return jnp.sqrt(above / below)
