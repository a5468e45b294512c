"""Sparse n-step approximation of real-time recurrent learning."""

from __future__ import annotations

import functools

from rnn_jax import checks
from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.estimators._forward import forward_estimator
from rnn_jax.estimators._influence_rule import influence_rule


@memoized
def snap(num_steps: int = 1) -> Estimator:
  """Sparse n-step approximation (SnAp-n): RTRL with only the entries reached within n steps.

    M_t = P_n ∘ (J_t M_{t−1} + I_t)        dL/dθ = Σ_t M_tᵀ δ_t

  P_n is 1 where a param can reach an entry of the carry within n steps (n = 1: in the step that
  applies it), and 0 elsewhere. With n = 1 and an Elman network, M has one entry per param: the
  effect of w_h[i, j] on unit j, through the diagonal of J_t alone. Once P_n covers every entry that
  a param can ever reach, the estimate equals that of `rtrl`. For cells that are diagonal in their
  carry this is n = 1; for a dense recurrent kernel n = 2.

  Cost per step: N·P + k²·P, where k is the number of entries that a param reaches within n steps (1
  for an Elman network and n = 1, 2 for an LSTM); memory: N² + k·P per example. Biased where P_n
  leaves entries out.

  Args:
    num_steps: n, at least 1.
  Returns:
    An Estimator that is not random.
  Raises:
    TypeError, ValueError: if n is not an integer of at least 1.
  References:
    Menick et al., 2021, https://arxiv.org/abs/2006.07232
  """
  checks.integer("num_steps", num_steps)
  rule = functools.partial(influence_rule, num_steps=num_steps, local=False)
  return forward_estimator(rule, random=False)
