"""Tests of figure F13: its closed form against Jacobians, small networks, and its checks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reproduce import report as figure_records
from experiments.reproduce.figures import f13_gated_chaos as f13
from rnn_jax.gradient_flow import step_jacobians


@pytest.mark.parametrize("name", f13.CELLS)
def test_zero_state_exponents_are_those_of_the_step_jacobian(name, monkeypatch):
  for constant, value in {"SEEDS": (4,), "BIASES": (1.0,), "RATIOS": (0.8,)}.items():
    monkeypatch.setattr(f13, constant, value)
  found = f13.zero_state_exponents(name, 6)
  params_key, _ = jax.random.split(jax.random.key(4))
  gain = 0.8 * f13.critical(name, 1.0)
  cell, params = f13.network(name, 1.0, gain, 6, params_key)
  (jacobians,) = step_jacobians([cell], [params], jnp.zeros((1, 1, 1)))
  radius = np.abs(np.linalg.eigvals(np.asarray(jacobians, float).squeeze())).max()
  assert found.squeeze() == pytest.approx(np.log(radius), abs=1e-5)


@pytest.mark.parametrize("name", f13.CELLS)
def test_small_networks_below_the_critical_gain_decay_as_the_closed_form(name, monkeypatch):
  for constant, value in {"SEEDS": (0, 1), "BIASES": (-1.0,), "RATIOS": (0.4,)}.items():
    monkeypatch.setattr(f13, constant, value)
  found, expected = f13.exponents(name, 5), f13.zero_state_exponents(name, 5)
  np.testing.assert_allclose(found, expected, atol=f13.RADIUS_TOLERANCE)


def test_crossing_is_where_the_last_sign_changes():
  assert f13.crossing(np.array([-1, -1, -0.1, 0.3, 1, 1, 1.0])) == pytest.approx(1.0625)
  assert f13.crossing(np.array([-1, 1, 1, 1, -0.1, 0.1, 1.0])) == pytest.approx(1.75)
  assert f13.crossing(np.full(7, 1.0)) == 0
  assert f13.crossing(np.full(7, -1.0)) == np.inf


def test_checks_compare_signs_and_crossings(monkeypatch):
  below = np.full((5, 7, 5), -0.2)
  monkeypatch.setattr(f13, "zero_state_exponents", lambda name, size: below)

  def exponents(name, size):
    shift = 1 + (40 / size) ** power
    values = 0.1 * (np.array(f13.RATIOS) - shift)[None, :, None] + np.zeros((5, 7, 5))
    values[:, :2] = below[:, :2] + error
    return values

  monkeypatch.setattr(f13, "exponents", exponents)
  power, error = 1.0, 0.002
  found = f13.run()
  assert len(found.checks) == 8 and len(found.table) == 10
  assert [check.name for check in found.checks if not check.met] == []
  power, error = -0.1, 0.004
  assert not any(check.met for check in f13.run().checks)
  assert figure_records.picture("F13", found).axes
