"""Tests of the lag profiles of untrained networks."""

from __future__ import annotations

import math

import numpy as np

from experiments.reproduce import profiles
from rnn_jax.cells import elman


def test_profiles_of_a_scaled_orthogonal_network_have_the_rate_of_its_gain(monkeypatch):
  for name, value in {"HIDDEN": 6, "STEPS": 24, "BATCH": 3, "FIRST": 4, "LAST": 16}.items():
    monkeypatch.setattr(profiles, name, value)

  def make(gain):
    return elman(profiles.HIDDEN, activation="linear", recurrent_gain=gain)

  found = profiles.mean_profiles(make, [0.5, 1.5], [0.1], [5, 6, 7])
  assert found.shape == (2, 1, 3, profiles.STEPS)
  assert len(np.unique(found[0, 0], axis=0)) == 3  # each seed has its own random v
  for rates, gain in zip(profiles.rates(found), (0.5, 1.5), strict=True):
    np.testing.assert_allclose(rates, math.log(gain), atol=1e-5)
