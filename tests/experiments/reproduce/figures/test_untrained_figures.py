"""Tests of the figures without training: their checks on made-up profiles, and a closed form."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from experiments.reproduce import profiles
from experiments.reproduce import report as figure_records
from experiments.reproduce.figures import (
  f1_cells,
  f2_gain,
  f4_chaos,
  f6_error_surface,
  f11_gaussian_products,
  f15_latch,
  f25_newton_in_time,
)


def test_f6_fold_is_where_two_equilibria_meet():
  s = 1 / (1 + np.exp(-1.5))  # two equilibria meet where w σ′ = 1, here at x = ±1.5
  w = 1 / (s * (1 - s))
  assert f6_error_surface.fold(w, 1) == pytest.approx(1.5 - w * s)
  assert f6_error_surface.fold(w, -1) == pytest.approx(-1.5 - w * (1 - s))


def test_f2_compares_rates_with_ln_g_and_with_mean_field(monkeypatch):
  theory = np.array([-0.706, -0.1421, -0.0661, -0.0237, 0.0607])
  rates = {"linear": np.log(f2_gain.GAINS), "tanh": theory + 0.009}

  def profiles_of(make, gains, scales, seeds):
    linear = make(1.0).update({}, np.zeros(1), np.ones(1), np.ones(1))[0] == 2.0
    slopes = rates["linear" if linear else "tanh"] / math.log(10)
    return np.multiply.outer(slopes, np.tile(np.arange(200), (len(scales), len(seeds), 1)))

  monkeypatch.setattr(profiles, "mean_profiles", profiles_of)
  found = f2_gain.run()
  assert len(found.checks) == 2 * len(f2_gain.GAINS) and all(check.met for check in found.checks)
  rates["linear"] = rates["linear"] + 1.1e-5
  rates["tanh"] = rates["tanh"] + 0.002
  assert not any(check.met for check in f2_gain.run().checks)
  assert figure_records.picture("F2", found).axes


def test_f1_allows_two_standard_errors_and_the_finite_size_term(monkeypatch):
  lags = np.arange(profiles.STEPS)
  expected = np.array([rates for _, _, rates in f1_cells.CELLS])[:, :, None]
  scatter = 0.003 * (np.arange(10) % 2 - 0.5)  # of standard error 0.0005
  slope = 0.128

  def measure(size):
    rates = expected + shift + slope / size + scatter
    return rates[..., None] * lags / math.log(10)

  monkeypatch.setattr(f1_cells, "measure", measure)
  sampled = np.broadcast_to(expected, (*expected.shape[:2], 10))
  monkeypatch.setattr(f1_cells, "sample_mean_field", lambda: sampled)
  shift = 0.0008
  found = f1_cells.run()
  assert all(check.met for check in found.checks) and len(found.checks) == len(found.table) == 10
  assert [row["finite-N term"] for row in found.table] == pytest.approx([0.001] * 10)
  assert [row["standard error"] for row in found.table] == pytest.approx([5e-4] * 10)
  shift = 0.0013
  assert not any(check.met for check in f1_cells.run().checks)
  assert figure_records.picture("F1", found).axes


def test_f1_mean_field_of_elman_follows_its_inputs():
  nodes, weights = np.polynomial.hermite_e.hermegauss(61)
  weights /= weights.sum()
  for j, scale in enumerate(f1_cells.SCALES):
    rates = []
    for seed in f1_cells.SEEDS:
      _, key, _ = jax.random.split(jax.random.key(seed), 3)
      xs = np.asarray(jax.random.normal(key, (profiles.STEPS, profiles.BATCH, 2)), float)
      variances = scale**2 / 2 * (xs**2).sum(axis=2)
      q, logs = np.zeros(profiles.BATCH), []
      for variance in variances:
        q = np.tanh(np.sqrt(q)[:, None] * nodes) ** 2 @ weights + variance
        logs.append(np.log(np.cosh(np.sqrt(q)[:, None] * nodes) ** -4 @ weights) / 2)
      window = slice(profiles.STEPS - profiles.LAST, profiles.STEPS - profiles.FIRST)
      rates.append(np.mean(logs[window]))
    assert np.mean(rates) == pytest.approx(f1_cells.CELLS[0][2][j], abs=0.002)


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


def test_f4_compares_with_the_spectral_radius_below_1_and_with_mean_field_above(monkeypatch):
  theory = {1.25: 0.0235, 1.5: 0.0652, 2.0: 0.1547, 3.0: 0.3103}
  radii = {seed: 1.0 + 0.01 * (seed % 3) for seed in f4_chaos.SEEDS}
  monkeypatch.setattr(f4_chaos, "spectral_radius", lambda seed: radii[seed])

  def measure(gains, seeds, size):
    values = []
    for gain, seed in zip(np.asarray(gains, float), np.asarray(seeds), strict=True):
      gain = round(float(gain), 3)
      if gain < 1:
        values.append(math.log(gain * radii[int(seed)]) + error * 0.001)
      else:
        distance = 6 * size ** (-1 if error < 1 else 0.1)
        values.append(theory[gain] - error * distance)
    return np.array(values)

  monkeypatch.setattr(f4_chaos, "measure", measure)
  error = 0.9
  found = f4_chaos.run()
  assert len(found.checks) == 2 + 2 * 4 and all(check.met for check in found.checks)
  error = 1.1
  assert not any(check.met for check in f4_chaos.run().checks)
  assert figure_records.picture("F4", found).axes


def test_f4_measures_the_spectral_radius_of_a_small_network():
  (found,) = f4_chaos.exponents([0.5], [3], 20)
  assert found == pytest.approx([math.log(0.5 * f4_chaos.spectral_radius(3, 20))], abs=2e-3)


def test_f11_compares_all_exponents_with_newmans_formula(monkeypatch):
  # A matrix of one entry: E ln |z| = −(γ + ln 2)/2 with variance π²/8, for z ~ N(0, 1).
  assert f11_gaussian_products.theory(1) == pytest.approx([-(np.euler_gamma + math.log(2)) / 2])
  assert f11_gaussian_products.standard_errors(1, 50) == pytest.approx(math.pi / math.sqrt(400))
  assert f11_gaussian_products.theory(64)[0] == pytest.approx(-0.0079, abs=5e-5)
  for name, value in {"SIZE": 5, "STEPS": 400, "SEEDS": (0, 1, 2), "SHOWN": (1, 5)}.items():
    monkeypatch.setattr(f11_gaussian_products, name, value)
  found = f11_gaussian_products.run()
  assert all(check.met for check in found.checks) and len(found.table) == 2
  spectra = np.asarray(f11_gaussian_products.measure(np.arange(3)))
  rng = np.random.default_rng(0)  # an independent product, whose volume grows at the same rate
  logs = [np.linalg.slogdet(rng.normal(size=(5, 5)) / math.sqrt(5))[1] for _ in range(4000)]
  assert spectra.sum(axis=1).mean() == pytest.approx(np.mean(logs), abs=0.15)
  off = spectra + 4 * f11_gaussian_products.standard_errors(5, 1200)
  monkeypatch.setattr(f11_gaussian_products, "measure", lambda seeds: off)
  assert not any(check.met for check in f11_gaussian_products.run().checks)
  assert figure_records.picture("F11", found).axes


def test_f15_critical_input_is_where_two_fixed_points_meet():
  w = 2.0
  a_c, u = f15_latch.critical(w)
  assert w * (1 - math.tanh(a_c) ** 2) == pytest.approx(1)
  below = f15_latch.fixed_point(w, 0.999 * u)
  assert below == pytest.approx(w * math.tanh(below) - 0.999 * u)
  a = np.linspace(-4, 4, 10_001)
  assert (w * np.tanh(a) - 1.001 * u < a)[a > 0].all()  # no fixed point is left above 0


def test_f15_gradient_in_noise_is_the_product_of_slopes(x64):
  w, inputs = 1.5, np.array([0.9, -0.1, 0.2, -0.3])
  a, h = [], 0.0
  for u in inputs:
    a.append(w * h + u)
    h = math.tanh(a[-1])
  found = np.asarray(f15_latch.profile(w, inputs[:, None]))[:, 0]
  slopes = [f15_latch.log_slope(w, one) / math.log(10) for one in a[::-1]]
  np.testing.assert_allclose(found, np.cumsum([0.0, *slopes[:-1]]), atol=1e-12)
