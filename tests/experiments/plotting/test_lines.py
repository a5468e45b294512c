"""Tests of `spread`: the minimum, median and maximum over seeds, drawn as lines and bands."""

from __future__ import annotations

import numpy as np

from experiments.plotting.lines import spread


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
