"""Tests of the task `charlm`: its windows of characters, their targets, and its baseline loss."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from rnn_jax.tasks import charlm
from rnn_jax.text import Corpus, build_vocabulary


def corpus_of(text):
  vocabulary = build_vocabulary(text)
  return Corpus("tiny", np.frombuffer(text, np.uint8), vocabulary, "")


TEXT = b"To be, or not to be, that is the question: whether 'tis nobler in the mind"


def drawn(task, seed=0):
  return jax.jit(task.batch)(task.data, jax.random.key(seed))


def test_charlm_targets_are_the_next_characters_of_the_text():
  corpus = corpus_of(TEXT)
  batch = drawn(charlm(8, 50, corpus))
  np.testing.assert_array_equal(batch.xs[1:], batch.targets[:-1])
  for x, target in zip(np.transpose(batch.xs), np.transpose(batch.targets), strict=True):
    window = corpus.vocabulary.decode(np.append(x, target[-1]))
    assert window in TEXT


def test_charlm_windows_cover_the_text_from_start_to_end():
  text = bytes(range(12))
  batch = drawn(charlm(8, 500, corpus_of(text)))
  assert set(np.asarray(batch.xs[0])) == {0, 1, 2, 3}
  assert set(np.asarray(batch.targets[-1])) == {8, 9, 10, 11}


def test_charlm_accepts_a_text_one_character_longer_than_the_window():
  batch = drawn(charlm(3, 2, corpus_of(b"abcd")))
  np.testing.assert_array_equal(batch.xs, [[0, 0], [1, 1], [2, 2]])
  np.testing.assert_array_equal(batch.targets, [[1, 1], [2, 2], [3, 3]])


def test_charlm_baseline_is_the_unigram_entropy():
  task = charlm(2, 1, corpus_of(b"aaaabbcd"))
  # Frequencies ½, ¼, ⅛ and ⅛ give ½·1 + ¼·2 + 2·⅛·3 = 1.75 bits.
  assert task.baseline == pytest.approx(1.75 * math.log(2))
  assert (task.vocabulary_size, task.output_size) == (4, 4)


def test_charlm_reads_the_standard_library_by_default():
  task = charlm(10, 2)
  assert task.data.dtype == np.uint8
  assert 100 < task.vocabulary_size <= 256
  assert 2 < task.baseline < math.log(task.vocabulary_size)
