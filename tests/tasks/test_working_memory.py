"""Tests of what the tasks of working memory show and when, and of the teacher's memory."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from rnn_jax.tasks import delayed_match_to_sample, delayed_xor, flip_flop, teacher_student
from rnn_jax.tasks.teacher_student import make_teacher


def drawn(task, seed=0):
  return jax.device_get(jax.jit(task.batch)(task.data, jax.random.key(seed)))


def test_delayed_xor_has_the_published_phases():
  xs = drawn(delayed_xor(300, 8)).xs
  shown = np.argwhere(xs[:, 0] != 0)
  assert [tuple(part) for part in shown] == [(t, 0) for t in range(50, 100)] + [
    (t, 1) for t in range(110, 160)
  ]
  assert set(np.unique(xs)) == {-1, 0, 1}
  assert np.all(np.ptp(xs[50:100, :, 0], axis=0) == 0)


@pytest.mark.parametrize("length", [6, 31])
def test_short_delayed_xor_shows_both_pulses_one_after_the_other(length):
  xs = drawn(delayed_xor(length, 8)).xs
  first, second = (np.flatnonzero(xs[:, 0, i]) for i in range(2))
  assert len(first) == len(second) == length // 6
  assert first[-1] < second[0]
  assert second[-1] < length - 1


def test_delayed_match_to_sample_has_the_published_phases():
  xs, targets, mask, _ = drawn(delayed_match_to_sample(250, 4000))
  blank, sample, delay, test = np.split(xs, [50, 100, 200])
  assert np.all(blank == 8)
  assert np.all(delay == 8)
  assert np.all(sample == sample[0])
  assert np.all(test == test[0])
  np.testing.assert_array_equal(targets[-1], sample[0] == test[0])
  assert mask.sum() == 4000
  # Both are uniform on the 8 stimuli, and each of the 7 other tests is equally likely.
  shifts = np.bincount((test[0] - sample[0]) % 8) / 4000
  np.testing.assert_allclose(shifts[1:], 1 / 14, atol=4.5 * math.sqrt(1 / 14 / 4000))
  for shown in (sample[0], test[0]):
    np.testing.assert_allclose(np.bincount(shown) / 4000, 1 / 8, atol=4.5 * math.sqrt(1 / 8 / 4000))


def test_flip_flop_pulses_have_the_given_probability():
  xs = drawn(flip_flop(101, 400, num_bits=5, pulse_probability=0.2)).xs
  assert xs.shape == (101, 400, 5)
  assert np.all(np.abs(xs[0]) == 1)
  n = xs[1:].size
  share = np.mean(xs[1:] != 0)
  assert share == pytest.approx(0.2, abs=4.5 * math.sqrt(0.16 / n))
  assert np.mean(xs) == pytest.approx(0, abs=4.5 * math.sqrt(0.21 / n))


@pytest.mark.parametrize("memory", [5.0, 100.0])
def test_the_teacher_forgets_by_e_in_its_memory_and_has_variance_1(memory):
  eigenvalues, readout = make_teacher(memory)
  np.testing.assert_allclose(np.abs(eigenvalues), math.exp(-1 / memory))
  steps = int(30 * memory)
  response = (eigenvalues ** np.arange(steps)[:, None] @ readout).real
  assert np.sum(response**2) == pytest.approx(1, rel=1e-6)
  long = teacher_student(steps, 1, memory).baseline
  # The mean of 1 − Var(y_∞ − y_t) over t; all but the first few memories have variance 1.
  assert 1 - 2 / 30 < long < 1
