"""Tests of figure F12: closed forms of its theory and its measures, and its checks."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from experiments.reproduce import mean_field
from experiments.reproduce import report as figure_records
from experiments.reproduce.figures import f12_lyapunov_spectrum as f12
from rnn_jax.cells import elman


def test_theory_has_its_closed_forms():
  shares = np.array([0.001, 0.3, 0.9])
  constant = f12.Slopes(np.array([0.25]), np.ones(1))
  newman = np.log(2**2 * 0.25 * (1 - shares)) / 2
  np.testing.assert_allclose(f12.theory(2.0, constant, shares), newman, atol=1e-4)
  for gain in f12.GAINS:
    slopes = f12.mean_field_slopes(gain)
    (largest,) = f12.theory(gain, slopes, np.array([1e-6]))
    assert largest == pytest.approx(mean_field.exponent(gain), abs=1e-4)
    # The mean of all exponents is that of ln |det(D J)|^(1/N): ln g − ½ for J, E ½ ln t for D.
    grid = (np.arange(200_000) + 0.5) / 200_000
    volume = math.log(gain) - 0.5 + slopes.probabilities @ np.log(slopes.squares) / 2
    assert f12.theory(gain, slopes, grid).mean() == pytest.approx(volume, abs=1e-3)


def test_dimension_and_entropy_rate_of_a_short_spectrum():
  spectrum = np.array([1.0, -0.5, -1.0])
  assert f12.attractor_dimension(spectrum) == pytest.approx(2.5)
  assert f12.entropy_rate(spectrum) == pytest.approx(1.0)
  assert f12.attractor_dimension(np.array([-0.1, -0.2])) == 0
  assert f12.attractor_dimension(np.array([0.3, -0.2])) == 2  # the volume grows


def test_the_exponents_add_up_to_the_growth_of_volumes(monkeypatch):
  monkeypatch.setattr(f12, "STEPS", 12)
  monkeypatch.setattr(f12, "SKIP", 2)
  (found,) = np.asarray(f12.measure(np.array([1.5], np.float32), np.array([3]), 5))
  params_key, carry_key = jax.random.split(jax.random.key(3))
  cell = elman(5, recurrent_kernel="gaussian", recurrent_gain=1.5)
  transposed = np.asarray(cell.init(params_key, 1)["w_h"], float)
  h, logs = np.asarray(jax.random.normal(carry_key, (5,)), float), []
  for _ in range(12):
    h = np.tanh(h @ transposed)
    logs.append(np.log(1 - h**2).sum() + np.linalg.slogdet(transposed)[1])
  assert found.sum() == pytest.approx(np.mean(logs[2:]), rel=1e-4)


def test_checks_tell_distances_of_order_1_over_n_from_slower_ones(monkeypatch):
  theories = [(gain, f12.mean_field_slopes(gain)) for gain in f12.GAINS]

  def spectra(size):
    shares = np.arange(1, size + 1) / size
    expected = np.array([f12.theory(*theory, np.minimum(shares, 0.999)) for theory in theories])
    scatter = 1e-4 * (np.arange(len(f12.SEEDS)) % 2 - 0.5)[:, None]
    return expected[:, None] - 0.02 * (100 / size) ** power + scatter

  monkeypatch.setattr(f12, "spectra", spectra)
  power = 1.0
  found = f12.run()
  assert len(found.checks) == 12 and len(found.table) == 6
  assert [check.name for check in found.checks if not check.met] == []
  power = 0.3
  assert sum(check.met for check in f12.run().checks) == 6  # the distances do shrink
  power = -0.5
  assert not any(check.met for check in f12.run().checks[::2])
  assert figure_records.picture("F12", found).axes
