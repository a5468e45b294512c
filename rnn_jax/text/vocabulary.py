"""Vocabularies of characters, where a character is one byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from rnn_jax import checks
from rnn_jax.text.counts import blocks, histogram

NEWLINE = ord("\n")


class Vocabulary(NamedTuple):
  """The distinct bytes of a text in ascending order; a byte's index among them is its token.

  A character is one byte, so a letter outside ASCII is several characters: its UTF-8 bytes.

  Attributes:
    symbols: the bytes, uint8 [V], in ascending order.
  """

  symbols: UInt8[np.ndarray, " V"]

  @property
  def size(self) -> int:
    """V, the number of distinct tokens."""
    return len(self.symbols)

  @property
  def eos(self) -> int | None:
    """The token of the newline, which ends a line; None if the vocabulary has no newline."""
    index = int(np.searchsorted(self.symbols, NEWLINE))
    return index if NEWLINE in self.symbols else None

  def check(self, text: bytes | UInt8[np.ndarray, "*shape"]) -> None:
    """Checks that the vocabulary has every byte of a text.

    Raises:
      ValueError: if it lacks a byte; the message names the first such byte, or the letter that
        contains it, and its index in the text.
    """
    values = byte_values(text).ravel()
    known = np.zeros(256, bool)
    known[self.symbols] = True
    for start, block in blocks(values):
      found = known[block]
      if not found.all():
        letter, at = _letter(values, start + int(np.argmin(found)))
        raise ValueError(f"text holds {letter!r} at byte {at}, not in the vocabulary.")

  def encode(self, text: bytes | UInt8[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Returns the tokens of a text as uint8: [N] if `text` is bytes, else in the shape of `text`.

    Raises:
      ValueError: if the vocabulary lacks a character of the text; the message names the first one.
      TypeError: if `text` is neither bytes nor a uint8 array.
    """
    self.check(text)
    token_of = np.zeros(256, np.uint8)
    token_of[self.symbols] = np.arange(self.size)
    return token_of[byte_values(text)]

  def decode(self, tokens: Integer[np.ndarray, " N"] | Sequence[int]) -> bytes:
    """Returns the text that tokens [N] stand for, as bytes.

    Raises:
      TypeError, ValueError: if the tokens are not integers [N] from 0 to V − 1.
    """
    return self.symbols[token_values(tokens, self.size)].tobytes()


def build_vocabulary(text: bytes | UInt8[np.ndarray, " N"]) -> Vocabulary:
  """Returns the vocabulary of the bytes that occur in a text."""
  return vocabulary_of_counts(histogram(byte_values(text), 256))


def vocabulary_of_counts(counts: Integer[np.ndarray, " 256"]) -> Vocabulary:
  """Returns the vocabulary of the bytes b that occur in a text, those with `counts[b]` > 0."""
  return Vocabulary(np.flatnonzero(counts).astype(np.uint8))


def byte_values(
  text: bytes | UInt8[np.ndarray, "*shape"],
) -> UInt8[np.ndarray, "*shape"] | UInt8[np.ndarray, " N"]:
  """Returns a text as a uint8 array, without a copy.

  Raises:
    TypeError: if `text` is neither bytes nor a uint8 array.
  """
  if isinstance(text, bytes):
    return np.frombuffer(text, np.uint8)
  if not isinstance(text, np.ndarray) or text.dtype != np.uint8:
    raise TypeError(f"text must be bytes or a uint8 array, got {checks.shown(text)}.")
  return text


def token_values(
  tokens: Integer[np.ndarray, " N"] | Sequence[int], size: int
) -> Integer[np.ndarray, " N"]:
  """Returns tokens [N] as an array, after checking that each is in a vocabulary of `size` tokens.

  Raises:
    TypeError, ValueError: if the tokens are not integers [N] from 0 to size − 1.
  """
  given = np.asarray(tokens)
  if given.ndim != 1:
    raise ValueError(f"tokens must be [N], got {checks.shown(given)}.")
  if given.size == 0:
    return given.astype(np.int32)
  if not np.issubdtype(given.dtype, np.integer):
    raise TypeError(f"tokens must be integers, got {given.dtype}.")
  if given.min() < 0 or given.max() >= size:
    raise ValueError(f"tokens must be from 0 to {size - 1}, got {given.min()} to {given.max()}.")
  return given


def _letter(values: UInt8[np.ndarray, " N"], at: int) -> tuple[str | bytes, int]:
  """Returns the letter that contains the byte at index `at`, and the index where the letter starts.

  If the byte is not part of valid UTF-8, the byte itself and `at` are returned.
  """
  for start in range(at, max(at - 4, -1), -1):
    letter = values[start : start + 4].tobytes().decode(errors="replace")[0]
    whole = letter.encode()
    if start + len(whole) > at and values[start : start + len(whole)].tobytes() == whole:
      return letter, start
  return values[at : at + 1].tobytes(), at
