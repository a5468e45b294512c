"""Tests of vocabularies of words: splitting a text, the order of words, and decoding."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rnn_jax.text import SPLITS, WordVocabulary, build_word_vocabulary, counts

TEXT = b"the cat, the dog;\n\nthe <unk> sat\n"


def words_of(text, split):
  vocabulary = build_word_vocabulary(text, split)
  return [vocabulary.words[token] for token in vocabulary.encode(text)]


def test_words_are_runs_of_word_characters_or_one_other():
  assert words_of(TEXT, "word") == (
    ["the", "cat", ",", "the", "dog", ";", "<eos>", "<eos>", "the", "<unk>", "sat", "<eos>"]
  )
  assert words_of(b"x_1+=<unk>a<b <eos>", "word") == (
    ["x_1", "+", "=", "<unk>", "a", "<", "b", "<eos>"]
  )


def test_words_of_tokenized_text_are_separated_by_white_space():
  assert words_of(TEXT, "whitespace") == (
    ["the", "cat,", "the", "dog;", "<eos>", "<eos>", "the", "<unk>", "sat", "<eos>"]
  )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
  ("text", "words"),
  [
    (b"", []),
    (b"a", ["a"]),  # a last line without a newline has no <eos>
    (b"\n", ["<eos>"]),
    (b"a\r\nb\r\n", ["a", "<eos>", "b", "<eos>"]),
    (b"a\x00\t\x0cb", ["a", "\x00", "b"]),
    ("Ünï\u00a0€\u2028日本".encode(), ["Ünï", "€", "日本"]),
    (b"\xff a \xc3\n", ["\udcff", "a", "\udcc3", "<eos>"]),
  ],
)
def test_unusual_texts_are_split_into_words(text, words, split):
  if split == "whitespace":
    text = text.replace(b"\x00", b" \x00 ")
  assert words_of(text, split) == words


def test_order_is_by_frequency_then_by_alphabet():
  vocabulary = build_word_vocabulary(b"d c b a b c c <eos> <unk> <unk> e\n")
  assert vocabulary.words == ("<unk>", "<eos>", "c", "b", "a", "d", "e")
  assert (vocabulary.size, vocabulary.unk, vocabulary.eos) == (7, 0, 1)


@pytest.mark.parametrize(
  ("cut", "kept"),
  [
    ({"min_count": 2}, "cb"),
    ({"min_count": 4}, ""),
    ({"max_size": 3}, "c"),
    ({"max_size": 5}, "cba"),
    ({"max_size": 99}, "cbade"),
    ({"min_count": 2, "max_size": 3}, "c"),
  ],
)
def test_rare_words_are_unknown(cut, kept):
  text = b"d c b a b c c e\n"
  vocabulary = build_word_vocabulary(text, **cut)
  assert vocabulary.words == ("<unk>", "<eos>", *kept)
  expected = [chr(c) if chr(c) in kept else "<unk>" for c in text.split()[0]]
  assert [vocabulary.words[token] for token in vocabulary.encode(text)[:1]] == expected
  tokens = vocabulary.encode(b"c new\n")
  assert tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens, [2 if kept else 0, 0, 1])


@pytest.mark.parametrize("split", SPLITS)
def test_decoding_restores_the_text_up_to_its_spaces(split):
  text = "  if x<= 'é':\r\n\n\tlatin \udce9\udcff <unk>\n日本 end".encode(errors="surrogateescape")
  vocabulary = build_word_vocabulary(text, split)
  tokens = vocabulary.encode(text)
  back = vocabulary.decode(tokens)
  np.testing.assert_array_equal(vocabulary.encode(back), tokens)
  assert re.sub(rb"[ \r\t]", b"", back) == re.sub(rb"[ \r\t]", b"", text)


def test_decode_puts_one_space_between_words_and_none_around_lines():
  vocabulary = WordVocabulary(("<unk>", "<eos>", "a", "b"))
  assert vocabulary.decode([2, 3, 1, 1, 2, 0, 1]) == b"a b\n\na <unk>\n"
  assert vocabulary.decode(np.array([3])) == b"b"
  assert vocabulary.decode([]) == b""


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("block", [1, 2, 7, 20])
def test_words_are_the_same_in_blocks(monkeypatch, block, split):
  text = ("<unk> <eos> naïve\nlonger-than-any-block日本\n\n a\xa0b " * 3).encode() + b"\xffend"
  whole = build_word_vocabulary(text, split)
  tokens = whole.encode(text)
  monkeypatch.setattr(counts, "BLOCK", block)
  assert build_word_vocabulary(text, split) == whole
  np.testing.assert_array_equal(whole.encode(np.frombuffer(text, np.uint8)), tokens)
