"""Tests of vocabularies of characters: encoding, decoding, and errors for unknown characters."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_jax.text import build_vocabulary, counts

ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize("text", [ALL_BYTES, ALL_BYTES[::-1] * 2, "é\n\x00".encode(), b"a"])
def test_decode_undoes_encode(text):
  vocabulary = build_vocabulary(text)
  tokens = vocabulary.encode(text)
  assert tokens.dtype == np.uint8
  assert vocabulary.decode(tokens) == text


def test_tokens_are_indices_among_the_sorted_distinct_bytes():
  vocabulary = build_vocabulary(b"banana")
  assert vocabulary.symbols.tobytes() == b"abn"
  assert vocabulary.size == 3
  np.testing.assert_array_equal(vocabulary.encode(b"nab"), [2, 0, 1])
  assert vocabulary.decode([0, 1]) == b"ab"


@pytest.mark.parametrize(
  ("text", "named"),
  [
    (b"abXaY", "'X' at byte 2"),
    (b"\xff", r"b'\xff' at byte 0"),
    ("ab\u00e9".encode(), "'é' at byte 2"),
    ("a€a€".encode(), "'€' at byte 1"),
    ("ab\u00e9".encode()[:-1], r"b'\xc3' at byte 2"),  # the first byte of é alone
    (b"a\xa9", r"b'\xa9' at byte 1"),  # the second byte of é alone
    ("a\ufffd".encode(), "'\ufffd' at byte 1"),
    (b"a\0", r"'\x00' at byte 1"),
  ],
)
def test_unknown_character_is_named_with_its_index(text, named):
  with pytest.raises(ValueError) as error:
    build_vocabulary(b"ab").encode(text)
  assert str(error.value) == f"text holds {named}, not in the vocabulary."


def test_letter_is_named_if_only_its_second_byte_is_unknown(monkeypatch):
  vocabulary = build_vocabulary("aè".encode())
  for block in (counts.BLOCK, 2):  # with the letter's bytes in one block, then in two
    monkeypatch.setattr(counts, "BLOCK", block)
    with pytest.raises(ValueError, match="'é' at byte 3, not"):
      vocabulary.encode("aèéé".encode())


def test_eos_is_the_newline_or_none():
  assert build_vocabulary(b"a\nb\t").eos == 1
  assert build_vocabulary(b"\n").eos == 0
  assert build_vocabulary(b"abc\r").eos is None
  assert build_vocabulary(b"\x00\x05").eos is None


def test_encoding_an_array_keeps_its_shape():
  vocabulary = build_vocabulary(b"abc")
  values = np.frombuffer(b"abccba", np.uint8)
  np.testing.assert_array_equal(vocabulary.encode(values.reshape(2, 3)), [[0, 1, 2], [2, 1, 0]])
  np.testing.assert_array_equal(build_vocabulary(values).symbols, vocabulary.symbols)
  assert len(vocabulary.encode(b"")) == 0
