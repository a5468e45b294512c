"""Tests of token counts and of the entropy of their distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rnn_jax.text import counts, entropy, histogram


def test_histogram_does_not_depend_on_the_block_size(monkeypatch):
  monkeypatch.setattr(counts, "BLOCK", 3)
  values = np.array([0, 1, 1, 4, 1, 0, 4, 4], np.uint8)
  np.testing.assert_array_equal(histogram(values, 6), [2, 3, 0, 0, 3, 0])
  np.testing.assert_array_equal(histogram(values[:0], 2), [0, 0])


def test_entropy_is_that_of_the_normalized_counts():
  assert entropy(np.array([4, 0, 2, 1, 1])) == pytest.approx(1.75 * math.log(2), rel=1e-12)
  assert str(entropy(np.array([0, 7]))) == "0.0"  # not -0.0
