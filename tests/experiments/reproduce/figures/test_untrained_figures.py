"""Tests of the figures without training: their checks on made-up profiles, and a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.reproduce import profiles
from experiments.reproduce import report as figure_records
from experiments.reproduce.figures import (
  f1_cells,
  f2_gain,
  f6_error_surface,
  f25_newton_in_time,
)


def test_f6_fold_is_where_two_equilibria_meet():
  s = 1 / (1 + np.exp(-1.5))  # two equilibria meet where w σ′ = 1, here at x = ±1.5
  w = 1 / (s * (1 - s))
  assert f6_error_surface.fold(w, 1) == pytest.approx(1.5 - w * s)
  assert f6_error_surface.fold(w, -1) == pytest.approx(-1.5 - w * (1 - s))


def test_f2_compares_rates_with_ln_g_and_with_earlier_values(monkeypatch):
  rates = {"linear": np.log(f2_gain.GAINS), "tanh": np.array(f2_gain.EARLIER) + 0.015}

  def profiles_of(make, gains, scales, seeds):
    linear = make(1.0).update({}, np.zeros(1), np.ones(1), np.ones(1))[0] == 2.0
    slopes = rates["linear" if linear else "tanh"] / math.log(10)
    return np.multiply.outer(slopes, np.tile(np.arange(200), (len(scales), len(seeds), 1)))

  monkeypatch.setattr(profiles, "mean_profiles", profiles_of)
  found = f2_gain.run()
  assert len(found.checks) == 2 * len(f2_gain.GAINS) and all(check.met for check in found.checks)
  rates["linear"] = rates["linear"] + 1.1e-5
  rates["tanh"] = rates["tanh"] + 0.006
  assert not any(check.met for check in f2_gain.run().checks)
  assert figure_records.picture("F2", found).axes


def test_f1_finds_the_half_lives_of_its_profiles(monkeypatch):
  lags, doubling = np.arange(profiles.STEPS), -50.0
  halves = [[doubling if h is None else h for h in expected] for _, _, expected in f1_cells.CELLS]
  exact = -math.log10(2) * lags / np.array(halves)[:, :, None, None]
  scatter = 1e-3 * (np.arange(len(f1_cells.SEEDS)) % 3 - 1)[:, None] * lags  # its median is 0
  monkeypatch.setattr(f1_cells, "measure", lambda: exact + scatter)
  found = f1_cells.run()
  assert all(check.met for check in found.checks) and len(found.checks) == len(found.table)
  assert [row["half-life"] for row in found.table] == pytest.approx(np.ravel(halves))
  monkeypatch.setattr(f1_cells, "measure", lambda: 1.3 * exact + scatter)
  missed = [check for check in f1_cells.run().checks if not check.met]
  assert len(missed) == len(found.checks) - 1  # the check that the gradient grows is still met
  assert figure_records.picture("F1", found).axes


def test_f25_compares_the_growth_of_iterations_with_the_sign_of_the_exponent(monkeypatch):
  def measure(name, num_steps, gains, seeds):
    exponents = np.log(gains) / 10 if flipped else np.log(gains)
    chaotic = gains > 1
    counts = np.where(chaotic != flipped, 0.8 * num_steps, 4 + seeds % 2)
    return exponents, counts.astype(int)

  flipped = False
  monkeypatch.setattr(f25_newton_in_time, "measure", measure)
  found = f25_newton_in_time.run()
  assert all(check.met for check in found.checks) and len(found.checks) == 4
  assert [check.measured for check in found.checks] == pytest.approx([1, 4, 5 / 409, 0.8], rel=0.01)
  flipped = True
  assert not any(check.met for check in f25_newton_in_time.run().checks)
  assert figure_records.picture("F25", found).axes
