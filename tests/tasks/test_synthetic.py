"""Tests of the synthetic tasks `adding`, `copy_memory` and `temporal_order`."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks import adding, copy_memory, temporal_order

B = 4


def drawn(task, seed=0):
  return jax.device_get(jax.jit(task.batch)(task.data, jax.random.key(seed)))


# Tests of the adding problem.


@pytest.mark.parametrize("length", [2, 5, 30])
def test_adding_marks_one_number_in_each_half_and_targets_their_sum(length):
  xs, targets, mask, _ = drawn(adding(length, 500))
  values, marks = np.moveaxis(xs, -1, 0)
  assert values.min() >= 0
  assert values.max() < 1
  assert set(np.unique(marks)) <= {0, 1}
  np.testing.assert_array_equal(marks[: length // 2].sum(axis=0), 1)
  np.testing.assert_array_equal(marks[length // 2 :].sum(axis=0), 1)
  assert np.all(marks.any(axis=1))  # each step is marked in some example
  np.testing.assert_allclose(
    targets[..., 0], np.tile((values * marks).sum(0), (length, 1)), rtol=1e-6
  )
  np.testing.assert_array_equal(mask, np.arange(length)[:, None] == np.full(500, length - 1))


def test_adding_baseline_is_the_variance_of_the_target():
  task = adding(10, 20_000)
  target = np.asarray(drawn(task).targets[-1, :, 0], np.float64)
  assert task.baseline == 1 / 6
  # The target's distribution is triangular. The sample mean has a standard deviation of 0.0029, and
  # the sample variance one of 0.0014; the tolerances are about four times as large.
  assert np.mean(target) == pytest.approx(1, abs=0.012)
  assert np.var(target) == pytest.approx(1 / 6, abs=0.006)
  losses = task.loss(jnp.ones((1, 20_000, 1)), target[None, :, None].astype(np.float32))
  assert np.mean(losses) == pytest.approx(task.baseline, abs=0.006)


# Tests of the copy memory task.


@pytest.mark.parametrize("length", [21, 50])
def test_copy_memory_shows_ten_symbols_and_targets_them_after_the_signal(length):
  xs, targets, mask, _ = drawn(copy_memory(length, 200))
  blank, signal = 8, 9
  shown = xs[:10]
  assert set(np.unique(shown)) == set(range(8))
  expected = [blank] * (length - 21) + [signal] + [blank] * 10
  np.testing.assert_array_equal(xs[10:], np.tile(expected, (200, 1)).T)
  np.testing.assert_array_equal(targets[:-10], blank)
  np.testing.assert_array_equal(targets[-10:], shown)
  assert np.all(mask)


def test_copy_memory_baseline_is_a_uniform_guess_at_the_last_ten_steps():
  task = copy_memory(70, B)
  assert task.baseline == pytest.approx(10 * math.log(8) / 70)
  # The value for T = 70, where the symbols must be kept for S = 50 steps.
  assert task.baseline == pytest.approx(0.2971, abs=5e-5)
  targets = np.asarray(drawn(task).targets)
  logits = np.full((70, B, 9), -1e9, np.float32)
  logits[:-10, :, 8] = 0
  logits[-10:, :, :8] = 0
  assert np.mean(task.loss(logits, targets)) == pytest.approx(task.baseline, rel=1e-5)


# Tests of the temporal order task.


def test_temporal_order_hides_two_signals_and_targets_their_order():
  length, batch_size = 50, 2000
  batch = drawn(temporal_order(length, batch_size))
  xs, targets, mask = map(np.asarray, (batch.xs, batch.targets, batch.mask))
  signals = xs >= 4
  positions = np.argwhere(signals.T)[:, 1].reshape(batch_size, 2)
  assert set(positions[:, 0]) == set(range(5, 10))
  assert set(positions[:, 1]) == set(range(20, 25))
  first, second = xs[positions.T, np.arange(batch_size)] - 4
  np.testing.assert_array_equal(targets, np.tile(2 * first + second, (length, 1)))
  counts = np.bincount(targets[-1])
  assert len(counts) == 4
  np.testing.assert_allclose(counts / batch_size, 0.25, atol=0.04)  # 4 standard deviations
  assert set(np.unique(xs)) == set(range(6))
  np.testing.assert_array_equal(mask, np.arange(length)[:, None] == np.full(batch_size, length - 1))


def test_temporal_order_baseline_is_a_guess_among_four():
  assert temporal_order(10, B).baseline == math.log(4)
