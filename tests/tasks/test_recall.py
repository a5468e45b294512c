"""Tests of the layout of `associative_recall` and `selective_copying`."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from rnn_jax.tasks import associative_recall, selective_copying


def drawn(task, seed=0):
  return jax.device_get(jax.jit(task.batch)(task.data, jax.random.key(seed)))


@pytest.mark.parametrize(
  ("length", "pairs", "vocabulary"), [(4, 1, 4), (9, 2, 7), (64, None, 64), (64, 16, 8192)]
)
def test_associative_recall_asks_for_each_key_once_and_last_at_the_last_step(
  length, pairs, vocabulary
):
  task = associative_recall(length, 200, pairs, vocabulary)
  pairs = pairs or 4
  xs, targets, mask, _ = drawn(task)
  keys, values = xs[0 : 2 * pairs : 2], xs[1 : 2 * pairs : 2]
  first_value = vocabulary // 2
  assert 1 <= keys.min() <= keys.max() < first_value <= values.min() <= values.max() < vocabulary
  assert (task.output_size, task.vocabulary_size) == (vocabulary - first_value, vocabulary)
  np.testing.assert_array_equal(mask, (xs > 0) & (np.arange(length) >= 2 * pairs)[:, None])
  assert np.all(mask[-1])
  for x, target, asked, key, value in zip(xs.T, targets.T, mask.T, keys.T, values.T, strict=True):
    assert len(set(key)) == len(set(value)) == pairs
    assert sorted(x[asked]) == sorted(key)
    assert not np.any(np.diff(np.flatnonzero(asked)) % 2)
    value_of = dict(zip(key, value, strict=True))
    assert [value_of[k] - first_value for k in x[asked]] == list(target[asked])
  # The last step asks for every pair equally often.
  last = (keys == xs[-1]).sum(axis=1)
  np.testing.assert_allclose(last / 200, 1 / pairs, atol=4.5 * math.sqrt(1 / pairs / 200))


def test_the_slots_of_early_queries_follow_the_power_law():
  # With 2 pairs, one query is drawn from the slots before the last one.
  _, _, mask, _ = drawn(associative_recall(64, 4000, 2, 16))
  counts = mask[4:-1].sum(axis=1)
  assert not counts[0::2].any()  # the last step is T − 1, and slots are two steps apart
  odds = np.arange(1, 30) ** -0.99
  p = odds / odds.sum()
  np.testing.assert_allclose(counts[1::2], 4000 * p, atol=4.5 * math.sqrt(4000 / 4))
  assert counts[1] == pytest.approx(4000 * p[0], abs=4.5 * math.sqrt(4000 * p[0] * (1 - p[0])))


@pytest.mark.parametrize("length", [32, 33, 100])
def test_selective_copying_scatters_sixteen_symbols_before_the_signals(length):
  xs, targets, mask, _ = drawn(selective_copying(length, 500))
  before = length - 16
  np.testing.assert_array_equal(xs[before:], 15)
  shown = xs[:before] < 14
  np.testing.assert_array_equal(shown.sum(axis=0), 16)
  assert np.all(xs[:before][~shown] == 14)
  np.testing.assert_array_equal(xs[:before].T[shown.T].reshape(500, 16).T, targets[before:])
  np.testing.assert_array_equal(mask, (np.arange(length) >= before)[:, None] & np.ones(500, bool))
  p = 16 / before  # every step is equally likely to show a symbol
  np.testing.assert_allclose(shown.mean(axis=1), p, atol=4.5 * math.sqrt(p * (1 - p) / 500) + 1e-9)
