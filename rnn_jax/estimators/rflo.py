"""RFLO and e-prop: real-time recurrent learning with a local Jacobian."""

from __future__ import annotations

import functools

from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.estimators._forward import forward_estimator
from rnn_jax.estimators._influence_rule import influence_rule


@memoized
def rflo() -> Estimator:
  """RFLO and e-prop: RTRL with a local Jacobian, which leaves out the path through `cell.recur`.

    M_t = J̃_t M_{t−1} + I_t        dL/dθ = Σ_t M_tᵀ δ_t
    J̃_t = ∂s_t/∂s_{t−1} at fixed recur(s_{t−1})

  J̃_t is the path by which `cell.update` reads the old carry: the leak 1 − α in `leaky`, z in a GRU,
  the cell state's ∂c_t/∂c_{t−1} = f_t in an LSTM. An Elman network has no such path, so its
  estimate is that of truncation to one step. In cells whose `recur` computes nothing, such as the
  linear ones, J̃ = J, and the estimate is exact. The estimate equals that of `h_detach(1)`, but is
  computed forward in time. (RFLO and random e-prop also project the errors through fixed random
  feedback weights in place of the transposed readout; here the errors δ_t are exact.)

  Cost per step: k²·P; memory: k·P per example, where k is the number of entries of the carry that a
  param can reach by local paths (1 in a GRU, 2 in an LSTM). Biased.

  Returns:
    An Estimator that is not random.
  References:
    Murray, 2019 (RFLO), https://doi.org/10.7554/eLife.43299
    Bellec et al., 2020 (e-prop), https://doi.org/10.1038/s41467-020-17236-y
  """
  rule = functools.partial(influence_rule, num_steps=None, local=True)
  return forward_estimator(rule, random=False)
