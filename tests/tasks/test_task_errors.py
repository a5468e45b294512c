"""Tests that a task with a wrong argument raises an error that names the argument."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from rnn_jax.tasks import (
  associative_recall,
  charlm,
  delayed_match_to_sample,
  delayed_xor,
  digits,
  flip_flop,
  group_word_problem,
  parity,
  permuted_digits,
  reverse,
  s3,
  s5,
  selective_copying,
  sequential_digits,
  sort,
  spelling,
  tagging,
  teacher_student,
)
from rnn_jax.tasks.baselines import count_answers, guess_entropy
from rnn_jax.text import Corpus, build_vocabulary


def corpus_of(text):
  return Corpus("tiny.py", np.frombuffer(text, np.uint8), build_vocabulary(text), "")


CORPUS = corpus_of(b"".join(b"if a%s: return %d # no\n" % (b"b" * i, i) for i in range(10)))
NOT_A_CORPUS = "corpus must be a Corpus, from load_corpus, got 'a.txt'."

# Each case is (function, arguments, expected error, part of its message).
CASES = [
  (
    digits,
    (899,),
    ValueError,
    "batch_size must be at most the 898 examples of part train, got 899.",
  ),
  (digits, (1, "trian"), ValueError, "Unknown part 'trian'; did you mean 'train'?"),
  (digits, (1.0,), TypeError, "batch_size must be an integer, got 1.0."),
  (spelling, (0,), ValueError, "batch_size must be at least 1, got 0."),
  (sequential_digits, (784, 1), ValueError, "must be 64, the pixels of an image, got 784."),
  (
    functools.partial(sequential_digits, pooled="no"),
    (64, 1),
    TypeError,
    "pooled must be True or False, got 'no'.",
  ),
  (permuted_digits, (784, 1), ValueError, "must be 64, the pixels of an image, got 784."),
  (parity, (0, 1), ValueError, "sequence_length must be at least 1, got 0."),
  (s3, (3, 0), ValueError, "batch_size must be at least 1, got 0."),
  (s5, (3.0, 1), TypeError, "sequence_length must be an integer, got 3.0."),
  (group_word_problem, (3, 1, 1), ValueError, "degree must be at least 2, got 1."),
  (group_word_problem, (3, 1, 7), ValueError, "degree must be at most 6, got 7."),
  (flip_flop, (3, 1, 0), ValueError, "num_bits must be at least 1, got 0."),
  (flip_flop, (3, 1, 1, 0.0), ValueError, "pulse_probability must be greater than 0, got 0.0."),
  (flip_flop, (3, 1, 1, 1.5), ValueError, "pulse_probability must be at most 1, got 1.5."),
  (associative_recall, (3, 1), ValueError, "sequence_length must be at least 4, got 3."),
  (associative_recall, (7, 1, 2), ValueError, "sequence_length must be at least 8, got 7."),
  (associative_recall, (8, 1, 0), ValueError, "num_pairs must be at least 1, got 0."),
  (associative_recall, (8, 1, 2, 5), ValueError, "vocabulary_size must be at least 6, got 5."),
  (selective_copying, (31, 1), ValueError, "sequence_length must be at least 32, got 31."),
  (delayed_xor, (5, 1), ValueError, "sequence_length must be at least 6, got 5."),
  (delayed_match_to_sample, (4, 1), ValueError, "sequence_length must be at least 5, got 4."),
  (teacher_student, (4, 1, 0), ValueError, "memory must be greater than 0, got 0."),
  (reverse, (0, 1), ValueError, "sequence_length must be at least 1, got 0."),
  (reverse, (3, [1]), TypeError, "batch_size must be an integer, got [1]."),
  (sort, (3, 0), ValueError, "batch_size must be at least 1, got 0."),
  (charlm, (3, 1, "a.txt"), TypeError, NOT_A_CORPUS),
  (tagging, (40, 1, "a.txt"), TypeError, NOT_A_CORPUS),
  (
    tagging,
    (10, 1, CORPUS),
    ValueError,
    "must be at least 20, the shortest line of part train, got 10.",
  ),
  (tagging, (40, 9, CORPUS), ValueError, "at most the 8 examples of part train, got 9"),
  (tagging, (40, 1, CORPUS, "dev"), ValueError, "Unknown part 'dev'"),
  (
    tagging,
    (40, 1, corpus_of(b"x = (\n")),
    ValueError,
    "corpus tiny.py: text must be Python source",
  ),
  (
    tagging,
    (40, 1, corpus_of(b"\n\nx\n")),
    ValueError,
    "at least two lines that are not empty, got 1.",
  ),
  (guess_entropy, (np.ones(3),), ValueError, "counts must be [positions, answers], got [3]."),
  (
    count_answers,
    (np.zeros(3, int), np.zeros(2, int), 1, 1),
    ValueError,
    "positions must have the shape of answers, [2], got [3].",
  ),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("call", "arguments", "error", "message"), CASES)
def test_wrong_arguments_are_named(call, arguments, error, message):
  with pytest.raises(error) as caught:
    call(*arguments)
  assert message in str(caught.value)
