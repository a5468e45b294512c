"""Anticipated reweighted truncated backpropagation: random truncation without bias."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._backward import Factors, backward_estimator
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.types import Number


@memoized
def artbp(probability: Number = 0.1) -> Estimator:
  """Anticipated reweighted truncated backpropagation (ARTBP): truncation at random, without bias.

    λ_t = δ_t + X_{t+1} / (1 − c) J_{t+1}ᵀ λ_{t+1}      X_t ~ Bernoulli(1 − c)

  In expectation the factor X / (1 − c) is 1, so the estimate is unbiased. Its variance grows with
  1 / (1 − c)^k at lag k. Every example of a batch has its own cuts.

  Cost per step: P. Memory: N per step since the last cut, 1/c steps on average, in a program that
  frees what lies before a cut; T·N in one scan over all steps, as here. Unbiased.

  Args:
    probability: c, the probability of a cut at each step, at least 0 and below 1. A number or a
      traced scalar. The subsequences have a mean length of 1/c.
  Returns:
    An Estimator that is random.
  Raises:
    TypeError, ValueError: if c is not a number from 0 to 1, or is 1.
  References:
    Tallec and Ollivier, 2017, https://arxiv.org/abs/1705.08209
  """
  checks.number("probability", probability, minimum=0, below=1)

  def factors(num_steps: int, batch_size: int, key: Key[Array, ""]) -> Factors:
    kept = 1 - jnp.asarray(probability, float)
    passes = jax.random.bernoulli(key, kept, (num_steps, batch_size))
    return Factors(passes.astype(kept.dtype) / kept)

  return backward_estimator(factors, random=True)
