"""What a guess costs that knows how often each answer occurs."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special


def guess_entropy(counts: np.ndarray) -> float:
  """Mean −ln p of the best guess that knows how often each answer a occurs in each place s.

    H = −Σ_sa n_sa ln(n_sa / Σ_a n_sa) / Σ_sa n_sa,  in nats

  Args:
    counts: n, [places, answers], counts or shares.
  Returns:
    H.
  """
  n = np.asarray(counts, np.float64)
  terms = special.rel_entr(n, n.sum(axis=1, keepdims=True))  # n ln(n / Σ_a n), none above 0
  return float(np.sum(np.abs(terms)) / n.sum())


def count_answers(places: Any, answers: Any, num_places: int, num_answers: int) -> np.ndarray:
  """How often each answer occurs in each place: int64 [num_places, num_answers]."""
  both = np.ravel(places).astype(np.int64) * num_answers + np.ravel(answers)
  return np.bincount(both, minlength=num_places * num_answers).reshape(num_places, num_answers)
