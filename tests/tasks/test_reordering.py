"""Tests of the tasks `reverse` and `sort` against Python's own reversing and sorting of lists."""

from __future__ import annotations

import collections
import itertools
import math

import jax
import numpy as np
import pytest

from rnn_jax.tasks import reverse, sort
from rnn_jax.tasks.reordering import NUM_SYMBOLS

SAME = {reverse: lambda symbols: symbols[::-1], sort: sorted}


def drawn(task, seed=0):
  return jax.tree.map(np.asarray, jax.jit(task.batch)(task.data, jax.random.key(seed)))


@pytest.mark.parametrize("make", SAME)
def test_target_is_the_source_in_another_order(make):
  batch = drawn(make(5, 300))
  assert batch.xs.source.shape == (5, 300)
  assert batch.targets.shape == (6, 300)
  for source, length, target in zip(
    batch.xs.source.T, batch.xs.source_lengths, batch.targets.T, strict=True
  ):
    assert list(target[:length]) == SAME[make](list(source[:length]))
    assert np.all(source[:length] > 0)
    assert not np.any(source[length:])
  np.testing.assert_array_equal(batch.mask.sum(axis=0), batch.xs.source_lengths + 1)


@pytest.mark.parametrize("make", SAME)
def test_lengths_and_symbols_are_uniform(make):
  batch = drawn(make(4, 8000))
  lengths = np.bincount(batch.xs.source_lengths)[1:]
  np.testing.assert_allclose(lengths / 8000, 1 / 4, atol=4 * math.sqrt(3 / 16 / 8000))
  symbols = np.bincount(batch.xs.source[0])[1:]
  np.testing.assert_allclose(symbols / 8000, 1 / 8, atol=4 * math.sqrt(7 / 64 / 8000))


@pytest.mark.parametrize("length", [1, 7])
def test_baseline_of_reverse_is_the_documented_formula(length):
  expected = (math.log(length) + math.log(8) * (length + 1) / 2) / ((length + 3) / 2)
  assert reverse(length, 1).baseline == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("make", SAME)
def test_baseline_equals_an_enumeration_of_all_sequences(make):
  longest = 3
  counts = [collections.Counter() for _ in range(longest + 1)]
  for length in range(1, longest + 1):
    for symbols in itertools.product(range(1, NUM_SYMBOLS + 1), repeat=length):
      for step, answer in enumerate([*SAME[make](list(symbols)), 0]):
        counts[step][answer] += NUM_SYMBOLS**-length / longest
  cost = -sum(n * math.log(n / step.total()) for step in counts for n in step.values())
  steps = sum(step.total() for step in counts)
  assert make(longest, 1).baseline == pytest.approx(cost / steps, rel=1e-12)
