"""Tests that the search finds planted units, and ranks chance correlations last."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from experiments.states.unit_search import correlations, fewest_tokens, search

T = 400


def draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def test_correlations_equal_scipys():
  a, b = draw(50, 3), draw(50, 4, seed=1) + 7
  expected = [[scipy.stats.pearsonr(x, y).statistic for y in b.T] for x in a.T]
  np.testing.assert_allclose(correlations(a, b), expected, rtol=1e-10)
  same = correlations(a, np.float32(-3e4 * a + 1e6))
  np.testing.assert_allclose(np.diag(same), -1, atol=1e-6)


def test_constant_values_have_correlation_0():
  constant = np.full((50, 1), 0.1, np.float32)
  constant[::2] *= 1 + 1e-7
  np.testing.assert_array_equal(correlations(draw(50, 3), constant), np.zeros((3, 1)))
  np.testing.assert_array_equal(correlations(np.zeros((50, 1)), draw(50, 2)), np.zeros((1, 2)))


def test_planted_units_are_ranked_by_their_held_out_correlation():
  quotes = (np.arange(T) // 7 % 2).astype(float)
  first = np.arange(T) < T // 2
  hidden, gate = draw(T, 6), draw(T, 4, seed=1)
  # Hidden unit 2 tracks quotes in the first half only, unit 4 in both; unit 5
  # tracks them with the opposite sign in the second half.
  hidden[:, 2] = np.where(first, quotes, hidden[:, 2])
  hidden[:, 4] = quotes + 0.5 * hidden[:, 4]
  hidden[:, 5] = np.where(first, quotes, -quotes) + 0.1 * hidden[:, 5]
  gate[:, 1] = 3 - 2 * quotes + 0.2 * gate[:, 1]
  features = {"quotes": quotes, "absent": np.zeros(T), "early": quotes * first}
  found = search(features, {"hidden": hidden, "gate": gate}, top=4)
  assert {f.feature for f in found} == {"quotes"}
  assert [(f.quantity, f.unit) for f in found] == [
    ("gate", 1),
    ("hidden", 4),
    ("hidden", 2),
    ("hidden", 5),
  ]
  for f in found:
    values = {"hidden": hidden, "gate": gate}[f.quantity][:, f.unit]
    for got, part in ((f.selection, first), (f.held_out, ~first)):
      np.testing.assert_allclose(got, scipy.stats.pearsonr(values[part], quotes[part]).statistic)
  gate_unit, noisy, chance, turned = found
  assert gate_unit.held_out < -0.9 and noisy.held_out > 0.6 and turned.held_out < -0.9
  assert chance.selection > 0.999 and abs(chance.held_out) < 0.2


def test_a_text_of_one_token_has_no_matches():
  assert search({"quotes": np.ones(1)}, {"hidden": np.ones((1, 2))}) == []


@pytest.mark.parametrize("units", [20, 1000])
def test_on_the_fewest_tokens_the_largest_chance_correlation_is_about_0_2(units):
  n = fewest_tokens(units) // 2
  draws = np.random.default_rng(0).standard_normal((100, n, units + 1))
  largest = [np.abs(correlations(a[:, :1], a[:, 1:])).max() for a in draws]
  assert 0.18 < np.median(largest) < 0.22


def test_without_features_there_are_no_matches():
  assert search({}, {"hidden": draw(T, 2)}) == []
