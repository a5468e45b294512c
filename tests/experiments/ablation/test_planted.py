"""Tests on planted effects: intervals cover them, and corrected tests hold their level."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats
from studies import grid, outcome

from experiments.ablation.effects import effects

SETS = 200
EFFECT = 0.5


@functools.cache
def planted(effect, seeds, count, labels=("a", "b"), aggregate="mean"):
  """Returns the effects found in each of `SETS` studies, whose outcomes are independent.

  The outcome is the sum of a part of the seed, a part of the label, and noise of the run.
  """
  rng = np.random.default_rng(seeds)
  found = []
  for _ in range(SETS):
    outcomes = []
    for i in range(count):
      values = rng.normal(size=seeds) + 0.4 * rng.normal(size=(len(labels), seeds))
      values[1:] += effect
      outcomes.append(outcome(values.ravel(), name=f"outcome {i}"))
    found.append(effects(grid({"label": labels}, seeds, outcomes), aggregate=aggregate))
  return found


def bounds(share):
  """Returns the counts out of `SETS` between which chance alone stays in 99.9 % of all cases."""
  return stats.binom.interval(0.999, SETS, share)


@pytest.mark.parametrize(("aggregate", "seeds"), [("mean", 5), ("mean", 10), ("iqm", 5)])
def test_intervals_cover_a_planted_effect(aggregate, seeds):
  found = planted(EFFECT, seeds, 1, aggregate=aggregate)
  covered = sum(one.low <= EFFECT <= one.high for (one,) in found)
  low, high = bounds(0.95)
  assert low <= covered
  assert aggregate == "iqm" or covered <= high  # wider than needed for interquartile means


def test_a_planted_effect_is_estimated_without_bias_and_found():
  found = [one for (one,) in planted(EFFECT, 10, 1, aggregate="mean")]
  error = 0.4 * np.sqrt(2 / 10 / SETS)  # of the mean over all sets
  assert abs(np.mean([one.effect for one in found]) - EFFECT) < 4 * error
  d_z = EFFECT / (0.4 * np.sqrt(2))
  assert np.mean([one.d_z for one in found]) == pytest.approx(
    d_z, rel=0.15
  )  # biased upwards in small samples
  worse = stats.norm.sf(d_z)  # a lower loss is better
  assert np.mean([one.p_better for one in found]) == pytest.approx(worse, abs=0.03)
  assert np.mean([one.p_holm < 0.05 for one in found]) > 0.5


def test_tests_of_a_null_hold_their_level():
  # Two outcomes and the same configuration under three labels: four tests in a table.
  found = planted(0.0, 8, 2, labels=("same", "the same", "again the same"))
  assert all(len(table) == 4 for table in found)
  low, high = bounds(12 / 256)  # the largest attainable level below 0.05
  assert low <= sum(table[0].p < 0.05 for table in found) <= high
  alone = sum(min(one.p for one in table) < 0.05 for table in found)
  corrected = sum(min(one.p_holm for one in table) < 0.05 for table in found)
  assert corrected <= bounds(0.05)[1] < alone
