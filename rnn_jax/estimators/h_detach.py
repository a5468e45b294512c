"""h-detach: backpropagation with the recurrent path blocked at random."""

from __future__ import annotations

import jax
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._backward import Factors, backward_estimator
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.types import Number


@memoized
def h_detach(probability: Number = 0.25) -> Estimator:
  """h-detach: the gradient through `cell.recur` is blocked at random, all other paths never.

    λ_t = δ_t + J̃_{t+1}ᵀ λ_{t+1}      J̃_t = ∂s_t/∂s_{t−1} with h_{t−1} detached in the recurrent
                                            product where X_t = 1,  X_t ~ Bernoulli(p)

  In an LSTM this detaches h_{t−1} but never c_{t−1}, so the gradient through the cell state, which
  keeps long lags, is no longer drowned by that through the gates. In a GRU it detaches h_{t−1} in
  the gates and the candidate, but not in z ∘ h. In an Elman network nothing else reads h_{t−1}, so
  X_t = 1 cuts the gradient as truncation does. The gradient of the params in `recur` is complete:
  they are multiplied with h_{t−1}, detached or not. With p = 1 the estimate is that of `rflo`.

  Cost per step: P. Memory: T·N per example. Biased, on purpose.

  Args:
    probability: p, from 0 to 1. A number or a traced scalar. The paper uses 0.25 and 0.5.
  Returns:
    An Estimator that is random. Every example of a batch has its own X_t.
  Raises:
    TypeError, ValueError: if p is not a number from 0 to 1.
  References:
    Kanuparthi et al., 2019, https://arxiv.org/abs/1810.03023
  """
  checks.number("probability", probability, minimum=0, maximum=1)

  def factors(num_steps: int, batch_size: int, key: Key[Array, ""]) -> Factors:
    blocked = jax.random.bernoulli(key, probability, (num_steps, batch_size))
    return Factors(recurrent=(~blocked).astype(float))

  return backward_estimator(factors, random=True)
