"""F21: the task, and checks on made-up exponents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reproduce.figures import f21_flossing

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_target_is_the_input_of_d_steps_before():
  batch = f21_flossing.delayed_copy(3, 2, 9).batch((), jax.random.key(0))
  assert np.array_equal(batch.mask.sum(axis=1), [0] * 3 + [2] * 6)
  assert np.array_equal(batch.targets[3:], np.asarray(batch.xs[:-3]) == 1)


def dynamics(exponents, slope):
  """Returns the dynamics of two networks with the same exponents and slope of the profile."""
  profile = slope * np.arange(200.0)
  return f21_flossing.Dynamics(np.tile(exponents, (2, 1)), np.tile(profile, (2, 1)))


NONE, LONGER = [1, 1, 0.4, 0, 0, 0], [1, 1, 1, 0.6, 0, 0]


@pytest.mark.parametrize(
  ("success", "last", "gain", "missed"),
  [
    ([NONE, LONGER, LONGER], -0.05, 0.2, []),
    ([NONE, NONE, LONGER], -0.05, 0.2, [0, 2]),
    ([NONE, LONGER, NONE], -0.05, 0.2, [1]),
    ([NONE, LONGER, LONGER], -0.2, 0.2, [3]),
    ([NONE, LONGER, LONGER], -0.05, 0.15, [4]),
  ],
)
def test_checks_success_exponents_and_gradients(success, last, gain, missed):
  before, after = dynamics([-0.25, -1.0], -0.25), dynamics([-0.05, last], gain - 0.25)
  checks = f21_flossing.checks_of(np.array(success), before, after)
  assert [i for i, check in enumerate(checks) if not check.met] == missed


def test_flosses_before_and_during_training(monkeypatch):
  small = {"HIDDEN_SIZE": 4, "NUM_EXPONENTS": 2, "CALL": 2, "FLOSSING_STEPS": 6, "SKIP": 2}
  for name, value in (small | {"LONG": 20, "SETTLED": 5}).items():
    monkeypatch.setattr(f21_flossing, name, value)
  params, _, before, after = f21_flossing.prepare(jnp.asarray([0], jnp.uint32), 2)
  assert before.exponents.shape == (1, 2) and before.profile.shape == (1, 25)
  assert np.abs(after.exponents).sum() < np.abs(before.exponents).sum()
  one = jax.tree.map(lambda a: np.asarray(a[0]), params)
  runs = [f21_flossing.Run(np.uint32(0), np.int32(1), np.int32(n), one) for n in (0, 3)]
  none, during = f21_flossing.train(runs, 4)
  np.testing.assert_array_equal(none[:2], during[:2])  # flossing follows the first call
  assert (none[2:] != during[2:]).any()
