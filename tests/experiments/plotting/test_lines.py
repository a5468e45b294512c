"""Tests of what lines and bands show: medians and extremes, means and their intervals."""

from __future__ import annotations

import numpy as np
from scipy import stats

from experiments.plotting.lines import interval, spread


def test_spread_ignores_nan_and_counts_infinities():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(5, 40))
  values[rng.random(values.shape) < 0.3] = np.nan
  values[0] = 0.5
  low, middle, high = spread(values)
  np.testing.assert_array_equal(low, np.nanmin(values, axis=0))
  np.testing.assert_allclose(middle, np.nanmedian(values, axis=0))
  np.testing.assert_array_equal(high, np.nanmax(values, axis=0))
  inf, nan = np.inf, np.nan
  values = np.array([[-inf, -inf, inf, nan], [-inf, 1.0, 2.0, nan], [3.0, 2.0, nan, nan]])
  low, middle, high = spread(values)
  np.testing.assert_array_equal(low, [-inf, -inf, 2, nan])
  np.testing.assert_array_equal(middle, [-inf, 1, inf, nan])
  np.testing.assert_array_equal(high, [3, 2, inf, nan])


def test_intervals_of_a_mean_are_those_of_scipy():
  values = np.random.default_rng(0).normal(size=(5, 3))
  low, mean, high = interval(values, "ci95")
  expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
  np.testing.assert_allclose((low, mean, high), (expected.low, values.mean(axis=0), expected.high))
  low, mean, high = interval(values, "std")
  np.testing.assert_allclose(high - mean, values.std(axis=0, ddof=1))
  np.testing.assert_allclose(mean - low, values.std(axis=0, ddof=1))


def test_a_mean_ignores_nan_and_keeps_infinities():
  inf, nan = np.inf, np.nan
  values = np.array([[1.0, nan, -inf, nan], [3.0, 2.0, 1.0, nan]])
  for band in ("ci95", "std"):
    low, mean, high = interval(values, band)
    np.testing.assert_array_equal(mean, [2, 2, -inf, nan])
    np.testing.assert_array_equal(np.isfinite(low), [True, False, False, False])
    np.testing.assert_array_equal(np.isfinite(high), [True, False, False, False])
