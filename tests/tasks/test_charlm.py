"""Tests of the task `charlm`: its windows of characters, its held-out end, and its baseline."""

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


@pytest.mark.parametrize(
  ("size", "held_out"),
  [
    (8, 4),  # as many as a window of 3 steps needs
    (40, 4),
    (49, 4),  # a tenth, rounded down
    (50, 5),
    (100, 10),
  ],
)
def test_windows_cover_the_training_text_and_held_out_windows_its_end(size, held_out):
  task = charlm(3, 2000, corpus_of(bytes(range(size))))
  cut = size - held_out
  for data, first, end in ((task.data, 0, cut), (task.held_out, cut, size)):
    batch = jax.device_get(task.batch(data, jax.random.key(0)))
    # Every start that keeps all T + 1 characters within the part occurs, and no other.
    assert set(batch.xs[0]) == set(range(first, end - 3))
    np.testing.assert_array_equal(batch.targets, batch.xs[0] + np.arange(1, 4)[:, None])


def test_a_text_of_two_windows_has_one_to_train_on_and_one_held_out():
  task = charlm(3, 2, corpus_of(b"abcdefgh"))
  np.testing.assert_array_equal(task.batch(task.data, jax.random.key(0)).xs.T, [[0, 1, 2]] * 2)
  np.testing.assert_array_equal(task.batch(task.held_out, jax.random.key(0)).xs.T, [[4, 5, 6]] * 2)


def test_data_shorter_than_a_window_is_an_error():
  # Windows of another task, longer than the held-out end, must not read beyond it.
  short, long = charlm(3, 2, corpus_of(bytes(range(40)))), charlm(4, 2, corpus_of(bytes(range(40))))
  with pytest.raises(ValueError, match="more than sequence_length = 4 characters, got 4"):
    jax.jit(long.batch)(short.held_out, jax.random.key(0))


def test_charlm_baseline_is_the_unigram_entropy_of_the_training_text():
  task = charlm(2, 1, corpus_of(b"aaaabbcdeee"))
  # Frequencies ½, ¼, ⅛ and ⅛ before the held-out end give ½·1 + ¼·2 + 2·⅛·3 = 1.75 bits.
  assert task.baseline == pytest.approx(1.75 * math.log(2))
  assert (task.vocabulary_size, task.output_size) == (5, 5)


def test_charlm_reads_the_standard_library_by_default():
  task = charlm(10, 2)
  assert task.data.dtype == np.uint8
  assert 100 < task.vocabulary_size <= 256
  assert 2 < task.baseline < math.log(task.vocabulary_size)
