"""Truncated backpropagation through time."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Key, PyTree

from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._backward import Factors, backward_estimator
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.time_loop import Truncation, check_truncation, cut_steps, unroll
from rnn_jax.types import Carry, Cell, Params, Sequences


@memoized
def tbptt(truncation: Truncation = 10) -> Estimator:
  """Truncated backpropagation through time (TBPTT), cut every k steps.

    λ_t = δ_t + [(t + 1) mod k ≠ 0] J_{t+1}ᵀ λ_{t+1}        dL/dθ = Σ_t I_tᵀ λ_t

  The loss at step t reaches back t mod k steps, so all lags ≥ k are lost. Of a lag
  j < k, about the fraction j/k is lost. It is the derivative of `unroll(truncation=k)`.

  Cost per step: P. Memory: k·N per example if the k steps are a program of their own
  (`rnn_jax.windows.train_windows`), T·N in one scan over all steps. Biased.

  Args:
    truncation: k, at least 1. An int or a traced scalar.
  Returns:
    An Estimator that is not random.
  Raises:
    TypeError, ValueError: if k is not an integer of at least 1.
  References:
    Williams and Peng, 1990, https://doi.org/10.1162/neco.1990.2.4.490
  """
  check_truncation(truncation)

  def factors(num_steps: int, batch_size: int, key: Key[Array, ""]) -> Factors:
    del batch_size, key
    return Factors((~cut_steps(truncation, num_steps, None, None, False)).astype(float))

  def truncated(
    cell: Cell,
    params: Params,
    xs: Sequences,
    carry: Carry | None = None,
    *,
    estimator_key: Key[Array, ""] | None = None,
    **time: Any,
  ) -> tuple[Carry, PyTree[Array]]:
    del estimator_key
    # The truncation counts from resets, too.
    return unroll(cell, params, xs, carry, truncation=truncation, **time)

  return backward_estimator(factors, random=False)._replace(unroll=truncated)
