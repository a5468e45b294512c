"""Tests of vocabularies as JSON: the round trip, and the errors for damaged data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rnn_jax.text import (
  SPLITS,
  build_vocabulary,
  build_word_vocabulary,
  vocabulary_from_json,
  vocabulary_to_json,
)


def through_json(vocabulary):
  return vocabulary_from_json(json.loads(json.dumps(vocabulary_to_json(vocabulary))))


def test_a_vocabulary_of_characters_survives_the_round_trip():
  text = bytes(range(0, 256, 3))
  vocabulary = through_json(build_vocabulary(text))
  assert vocabulary.symbols.dtype == np.uint8
  assert vocabulary.symbols.tobytes() == text


@pytest.mark.parametrize("split", SPLITS)
def test_a_vocabulary_of_words_survives_the_round_trip_even_if_its_bytes_are_not_utf8(split):
  vocabulary = build_word_vocabulary(b"it's \xff caf\xc3\xa9 \x00\n", split)
  assert through_json(vocabulary) == vocabulary


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("saved", "message"),
  [
    ([1], "an object with level and symbols"),
    ({}, "level 'character' or 'word', got None"),
    ({"level": "chars", "symbols": [1]}, "level 'character' or 'word', got 'chars'"),
    ({"level": ["word"], "symbols": ["a"]}, "level"),
    ({"level": "character"}, "a list of symbols, got None"),
    ({"level": "character", "symbols": []}, "a list of symbols"),
    ({"level": "character", "symbols": [1, 256]}, "from 0 to 255"),
    ({"level": "character", "symbols": [2, 1]}, "sorted"),
    ({"level": "character", "symbols": [1, 1]}, "each once"),
    ({"level": "character", "symbols": ["a"]}, "bytes as symbols"),
    ({"level": "character", "symbols": [True]}, "bytes as symbols"),
    ({"level": "word", "symbols": ["<unk>", "<eos>"]}, "split of word, whitespace, got None"),
    ({"level": "word", "split": ["word"], "symbols": ["a"]}, "split of word"),
    ({"level": "word", "split": "word", "symbols": ["<eos>", "<unk>"]}, "begin with <unk> and"),
    ({"level": "word", "split": "word", "symbols": ["<unk>", "<eos>", "a", "a"]}, "each once"),
    ({"level": "word", "split": "word", "symbols": ["<unk>", "<eos>", 3]}, "words as symbols"),
  ],
)
def test_errors_name_the_damage(saved, message):
  with pytest.raises(ValueError, match=f"^vocabulary must .*{message}"):
    vocabulary_from_json(saved)
