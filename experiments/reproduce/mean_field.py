"""Mean-field theory of random tanh networks: the limit of infinitely many units."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(201)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def exponent(gain: float, input_variance: float = 0.0) -> float:
  """Returns the largest Lyapunov exponent of h' = tanh(J h + x) at infinite width, nats per step.

    λ₁ = ½ ln(g² ⟨sech⁴ a⟩)        a ~ N(0, q)        q = g² ⟨tanh² a⟩ + v

  Here ⟨·⟩ is the mean over the pre-activation a. The exponent of a' = J tanh(a) + x is the same,
  since h = tanh(a).

  Args:
    gain: g; the entries of J have variance g²/N.
    input_variance: v, the variance of each unit's input x.
  References:
    Sompolinsky et al., 1988, https://doi.org/10.1103/PhysRevLett.61.259; in discrete time, and with
    inputs: Molgedey et al., 1992, https://doi.org/10.1103/PhysRevLett.69.3717
  """

  def mean(values: Float[np.ndarray, " nodes"]) -> float:
    return float(_WEIGHTS @ values)

  def gap(q: float) -> float:
    return gain**2 * mean(np.tanh(math.sqrt(q) * _NODES) ** 2) + input_variance - q

  q = 0.0
  if input_variance > 0 or gain > 1.001:  # otherwise q is 0, or at most about 1e-3 and taken as 0
    from scipy.optimize import brentq  # imported here because it takes a third of a second

    q = brentq(gap, max(input_variance, 1e-6), gain**2 + input_variance)
  return math.log(gain**2 * mean(np.cosh(math.sqrt(q) * _NODES) ** -4.0)) / 2
