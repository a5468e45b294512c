"""Tests of intervals, tests and corrections: against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from experiments.ablation import inference


def test_three_differences_give_the_numbers_of_a_hand_computation():
  values = np.array([1.0, 2.0, 6.0])  # mean 3, deviations −2, −1, 3, variance 14 / 2
  assert inference.cohens_d(values) == pytest.approx(3 / math.sqrt(7))
  assert inference.sign_flip_p(values) == 2 / 2**3  # all of one sign: 2 of 8 sign changes
  low, high, method = inference.interval(values, "mean")
  half = 4.302652729911275 * math.sqrt(7 / 3)  # the 97.5 % quantile of t with 2 degrees of freedom
  assert (low, high, method) == (pytest.approx(3 - half), pytest.approx(3 + half), "t")


def test_the_sign_flip_test_counts_sign_changes():
  # Means at least as large as (−1 + 2 + 6) / 3 in absolute value: of ±(1, 2, 6) and ±(−1, 2, 6).
  assert inference.sign_flip_p(np.array([-1.0, 2.0, 6.0])) == 4 / 8
  assert inference.sign_flip_p(np.zeros(5)) == 1


@pytest.mark.parametrize("n", [2, 5, 13, 14, 20])
def test_the_smallest_p_is_that_of_differences_of_one_sign(n):
  assert inference.sign_flip_p(np.ones(n)) == inference.smallest_p(n)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
  assert inference.iqm(np.array([10.0, 0.0, 3.0, 1.0, 2.0])) == 2
  assert inference.iqm(np.array([1.0, 2, 3, 4, 5, 6, 70, 80])) == 4.5


def test_holm_multiplies_by_the_number_of_tests_that_are_left():
  found = inference.holm(np.array([0.01, math.nan, 0.04, 0.03, 0.9]))
  # Sorted: 0.01 · 4, 0.03 · 3, then 0.04 · 2 = 0.08, which may not be below 0.09, and 0.9 · 1.
  np.testing.assert_allclose(found, [0.04, math.nan, 0.09, 0.09, 0.9])
  assert inference.holm(np.array([])).shape == (0,)
  assert inference.holm(np.array([0.8, 0.9])).tolist() == [1, 1]


@pytest.mark.parametrize(
  ("values", "aggregate"), [([2.0], "mean"), ([2.0] * 6, "mean"), ([1.0, 2, 3, 4], "iqm")]
)
def test_there_is_no_interval_without_spread_or_with_too_few_values(values, aggregate):
  low, high, method = inference.interval(np.array(values), aggregate)
  assert math.isnan(low) and math.isnan(high) and method == ""


def test_many_ties_get_the_percentile_interval_which_stays_within_the_values():
  low, high, method = inference.interval(np.array([0.0, 0, 0, 0, 1]), "mean")
  assert method == "percentile"
  assert low == 0 and 0.2 < high <= 1


def test_the_studentized_interval_approaches_students_for_normal_values():
  values = np.random.default_rng(0).normal(size=400)
  low, high, method = inference.interval(values, "mean")
  t = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
  assert method == "studentized"
  np.testing.assert_allclose([low, high], t, atol=0.01)


def test_intervals_are_equal_in_every_call():
  values = np.array([0.3, -0.1, 0.5, 0.2, 0.4])
  assert inference.interval(values, "mean") == inference.interval(values, "mean")
