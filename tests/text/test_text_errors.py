"""Tests that `rnn_jax.text`, given a wrong argument, raises an error that names the argument."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_jax.text import (
  Corpus,
  Source,
  build_vocabulary,
  build_word_vocabulary,
  evaluation_windows,
  lanes,
  line_spans,
  load_corpus,
  make_reader,
  make_source,
  split,
  vocabulary_to_json,
)
from rnn_jax.text.python_source import tagged_lines


def counting(size):
  return Source(np.arange(size, dtype=np.int32), lambda tokens: tokens, None)


def lines_of(text):
  corpus = Corpus("tiny", np.frombuffer(text, np.uint8), build_vocabulary(text), "")
  return make_source(corpus, corpus.vocabulary)


def reader(name, size=20, batch_size=2, window=5, count=1, seed=0):
  return make_reader(name, counting(size), batch_size, window, count, seed)


# Each case is (function, arguments, expected error, part of its message).
CASES = [
  (reader, ("streams",), ValueError, "reading 'streams'; did you mean 'stream'"),
  (reader, ("stream", 10), ValueError, "must be below the 10 tokens of the text, got 2 · 5."),
  (reader, ("windows", 5), ValueError, "window must be below the 5 tokens of the text, got 5."),
  (reader, ("lines",), ValueError, "reading 'lines' needs a text with lines"),
  (
    make_reader,
    ("lines", lines_of(b"abc\nabcd\n"), 2, 3, 1, 0),
    ValueError,
    "window must be at least 4, the shortest line, got 3",
  ),
  (reader, ("stream", 20, 0), ValueError, "batch_size must be at least 1, got 0"),
  (reader, ("windows", 20, 2, 0), ValueError, "window must be at least 1, got 0"),
  (reader, ("windows", 20, 2, 5, 0), ValueError, "count must be at least 1, got 0"),
  (reader, ("windows", 20, 2, 5, 1, -1), ValueError, "seed must be at least 0, got -1"),
  (
    evaluation_windows,
    (counting(4), 4, 2, 1),
    ValueError,
    "must be below the 4 tokens of the text, got 4.",
  ),
  (split, (np.arange(9), 1), ValueError, "validation_share must be below 1, got 1."),
  (split, (np.arange(9), -0.1), ValueError, "validation_share must be at least 0, got -0.1"),
  (split, (np.arange(9), "x"), TypeError, "validation_share must be a number, got 'x'"),
  (split, (np.ones((3, 2), int), 0.5), ValueError, "text must be [N], got [3, 2]."),
  (lanes, (np.ones((3, 2), int), 2), ValueError, "tokens must be [N], got [3, 2]."),
  (lanes, (np.arange(3), 4), ValueError, "batch_size must be at most the 3 tokens, got 4."),
  (load_corpus, (3,), TypeError, "corpus must be a path, or 'stdlib', got 3."),
  (
    make_source,
    ("a.txt", build_vocabulary(b"a")),
    TypeError,
    "corpus must be a Corpus, from load_corpus, got",
  ),
  (
    make_source,
    (Corpus("a", np.zeros(1, np.uint8), build_vocabulary(b"\0"), ""), {}),
    TypeError,
    "vocabulary must be a Vocabulary or a WordVocabulary, got dict.",
  ),
  (tagged_lines, ("x = 1",), TypeError, "source must be bytes, got 'x = 1'."),
  (build_vocabulary, ("ab" * 99,), TypeError, f"uint8 array, got '{'ab' * 28}..."),
  (build_vocabulary, ("abc",), TypeError, "text must be bytes or a uint8 array, got 'abc'."),
  (
    build_vocabulary(b"a").encode,
    (np.arange(2),),
    TypeError,
    "text must be bytes or a uint8 array, got int64[2].",
  ),
  *(
    (function, arguments, TypeError, "source must be a Source, from make_source, got 'a.txt'.")
    for function, arguments in (
      (make_reader, ("stream", "a.txt", 1, 1, 1, 0)),
      (evaluation_windows, ("a.txt", 1, 1, 1)),
      (line_spans, ("a.txt",)),
    )
  ),
  (
    evaluation_windows,
    (counting(9), 1, 1, 1, "yes"),
    TypeError,
    "by_line must be True or False, got 'yes'.",
  ),
  (vocabulary_to_json, ("a",), TypeError, "must be a Vocabulary or a WordVocabulary, got str."),
  *(
    (vocabulary.decode, (tokens,), error, message)
    for vocabulary in (build_vocabulary(b"abc"), build_word_vocabulary(b"a"))
    for tokens, error, message in (
      ([9], ValueError, "tokens must be from 0 to 2, got 9 to 9."),
      ([-1, 0], ValueError, "tokens must be from 0 to 2, got -1 to 0."),
      (np.ones(3), TypeError, "tokens must be integers, got float64."),
      ([[1]], ValueError, "tokens must be [N], got int64[1, 1]."),
    )
  ),
  (
    build_word_vocabulary,
    (b"a b", "words"),
    ValueError,
    "Unknown split 'words'; did you mean 'word'? Choose one of: whitespace, word",
  ),
  (build_word_vocabulary, (b"a b", "word", 0), ValueError, "min_count must be at least 1, got 0"),
  (
    build_word_vocabulary,
    (b"a b", "word", 1.5),
    TypeError,
    "min_count must be an integer, got 1.5",
  ),
  (build_word_vocabulary, (b"a b", "word", 1, 2), ValueError, "max_size must be at least 3, got 2"),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("call", "arguments", "error", "message"), CASES)
def test_wrong_arguments_are_named(call, arguments, error, message):
  with pytest.raises(error) as caught:
    call(*arguments)
  assert message in str(caught.value)
