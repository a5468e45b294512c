"""F20: the task, counts of updates, and checks on made-up losses."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.reproduce.figures import f20_h_detach

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_task_recalls_the_symbols_after_the_signal():
  task = f20_h_detach.short_copy(3, silence=5)
  batch = task.batch((), jax.random.key(0))
  blank, signal = 4, 5
  assert batch.xs.shape == batch.targets.shape == (13, 3)
  assert np.array_equal(batch.targets[-4:], batch.xs[:4]) and np.all(batch.targets[:-4] == blank)
  assert np.all(batch.xs[8] == signal) and np.all(np.delete(batch.xs[4:], 4, axis=0) == blank)
  assert task.baseline == pytest.approx(4 * np.log(4) / 13)


def test_counts_updates_and_relapses():
  curves = np.array([[1, 0.05, 0.5, 0.05], [0.05, 0.05, 0.05, 0.05], [1, 1, 1, 1]])
  call = f20_h_detach.CALL
  assert np.array_equal(f20_h_detach.updates_to_solve(curves), [2 * call, call, 5 * call])
  np.testing.assert_allclose(f20_h_detach.relapses(curves), [1 / 3, 0, 1])


@pytest.mark.parametrize(
  ("none", "some", "missed"),
  [
    ([1, 1, 0.05, 0.5, 0.05], [1, 0.05, 0.05, 0.05, 0.05], []),
    ([1, 0.05, 0.05, 0.05, 0.05], [1, 1, 0.05, 0.5, 0.05], [1, 2, 3]),
    ([1, 1, 1, 1, 0.05], [1, 1, 1, 1, 1], [0, 1, 2, 3]),
  ],
)
def test_checks_speed_and_steadiness(none, some, missed):
  curves = np.array([[none] * 3, [some] * 3])
  checks = f20_h_detach.checks_of(curves)
  assert [i for i, check in enumerate(checks) if not check.met] == missed


def test_training_detaches(monkeypatch):
  for name, value in {"HIDDEN_SIZE": 4, "BATCH_SIZE": 3, "CALL": 5}.items():
    monkeypatch.setattr(f20_h_detach, name, value)
  runs = [f20_h_detach.Run(np.uint32(0), np.float32(p)) for p in (0, 1)]
  plain, detached = f20_h_detach.train(runs, 10)
  assert plain.shape == (10,) and plain[0] == detached[0]
  assert plain[-1] != detached[-1]
