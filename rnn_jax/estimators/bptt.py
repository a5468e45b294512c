"""Full backpropagation through time."""

from __future__ import annotations

from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._backward import Factors, backward_estimator
from rnn_jax.estimators._estimator import Estimator


@memoized
def bptt() -> Estimator:
  """Full backpropagation through time (BPTT): the exact gradient.

    λ_t = δ_t + J_{t+1}ᵀ λ_{t+1}        dL/dθ = Σ_t I_tᵀ λ_t

  Cost per step: P. Memory: T·N per example. Bias: none.

  Returns:
    An Estimator that is not random.
  References:
    Werbos, 1990, https://doi.org/10.1109/5.58337
  """
  return backward_estimator(lambda num_steps, batch_size, key: Factors(), random=False)
