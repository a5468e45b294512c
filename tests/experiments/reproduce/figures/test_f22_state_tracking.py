"""F22: the spread task, checks on made-up scores, and a tiny training."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from outcomes import draws

from experiments.reproduce.figures import f22_state_tracking
from experiments.reproduce.training import SeedAndRate

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_spreads_a_token_over_two_steps():
  task = f22_state_tracking.s3(5, 3)
  batch, found = (
    each.batch((), jax.random.key(0)) for each in (task, f22_state_tracking.spread(task, 2))
  )
  np.testing.assert_array_equal(found.xs[::2], 2 * batch.xs)
  np.testing.assert_array_equal(found.xs[1::2], 2 * batch.xs + 1)
  np.testing.assert_array_equal(found.targets[1::2], batch.targets)
  assert found.mask[1::2].all() and not found.mask[::2].any()


@pytest.mark.parametrize("good", [True, False])
def test_checks_the_best_run(monkeypatch, good):
  limits = iter([limit for of in f22_state_tracking.LIMITS.values() for limit in of.values()])

  def train(setting, method, runs):
    limit = next(limits)
    met = limit + 0.01 if limit == f22_state_tracking.SOLVED else limit - 0.01
    found = np.full((len(runs), f22_state_tracking.LAST), -0.1)
    found[-2] = met if good else 2 * limit - met
    return found

  monkeypatch.setattr(f22_state_tracking, "train", train)
  outcome = f22_state_tracking.run(size=8, heads=2)
  closed, trained = outcome.checks[:2], outcome.checks[2:]
  assert all(check.met for check in closed) and len(trained) == 9
  assert all(check.met is good for check in trained)
  assert [row["median over seeds"] for row in outcome.table] == pytest.approx([-0.1] * 9)
  assert {row["learning rate"] for row in outcome.table} == {f22_state_tracking.LEARNING_RATES[1]}
  assert draws(outcome)


def test_trains():
  tiny = f22_state_tracking.Setting(f22_state_tracking.parity, 3, 2)
  method = f22_state_tracking.methods(4, 2)[f22_state_tracking.PRODUCT]
  found = f22_state_tracking.train(tiny, method, [SeedAndRate(np.uint32(0), np.float32(0))])
  assert found.shape == (1, f22_state_tracking.LAST)
  assert (np.abs(found) <= 1).all()
