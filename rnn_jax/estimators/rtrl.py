"""Real-time recurrent learning: the exact gradient, forward in time."""

from __future__ import annotations

import functools

from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.estimators._forward import forward_estimator
from rnn_jax.estimators._influence_rule import influence_rule


@memoized
def rtrl() -> Estimator:
  """Real-time recurrent learning (RTRL): the exact gradient, forward in time.

    M_t = J_t M_{t−1} + I_t        dL/dθ = Σ_t M_tᵀ δ_t

  M_t = ds_t/dθ is kept in all entries that can be nonzero. If a param can reach all N entries of
  the carry, these are N·P numbers per example. In a cell that is diagonal in its carry, such as
  `lru` or `indrnn`, a param reaches one unit, and they are P.

  Cost per step: N²·P, for diagonal cells P; memory: N·P per example, for diagonal cells P. Bias:
  none. The step Jacobian takes N Jacobian-vector products, fewer if it is sparse.

  Returns:
    An Estimator that is not random.
  References:
    Williams and Zipser, 1989, https://doi.org/10.1162/neco.1989.1.2.270
    Zucchet et al., 2023 (diagonal cells), https://arxiv.org/abs/2305.15947
  """
  rule = functools.partial(influence_rule, num_steps=None, local=False)
  return forward_estimator(rule, random=False)
