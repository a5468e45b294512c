"""Characters as integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnn_jax.text.counts import blocks, histogram

NEWLINE = ord("\n")


class Vocabulary(NamedTuple):
  """The distinct bytes of a text, in order; a token is a byte's place among them.

  A character is a byte: a letter outside ASCII is several, as UTF-8 writes it.

  Attributes:
    symbols: uint8 [V], sorted.
  """

  symbols: np.ndarray

  @property
  def size(self) -> int:
    """V, the number of distinct tokens."""
    return len(self.symbols)

  @property
  def eos(self) -> int | None:
    """The token that ends a line, the newline's; None where the text has none."""
    place = int(np.searchsorted(self.symbols, NEWLINE))
    return place if NEWLINE in self.symbols else None

  def check(self, text: bytes | np.ndarray) -> None:
    """Refuses a text with bytes that the vocabulary does not hold.

    Raises:
      ValueError: naming the first one, or the letter that it is part of, and its place.
    """
    values = byte_values(text).ravel()
    known = np.zeros(256, bool)
    known[self.symbols] = True
    for start, block in blocks(values):
      found = known[block]
      if not found.all():
        letter, at = _letter(values, start + int(np.argmin(found)))
        raise ValueError(f"text holds {letter!r} at byte {at}, not in the vocabulary.")

  def encode(self, text: bytes | np.ndarray) -> np.ndarray:
    """Bytes, or a uint8 array of them, to tokens: uint8 [N], or of the array's shape.

    Raises:
      ValueError: naming the first character that the vocabulary does not hold.
      TypeError: the text is neither bytes nor uint8.
    """
    self.check(text)
    token_of = np.zeros(256, np.uint8)
    token_of[self.symbols] = np.arange(self.size)
    return token_of[byte_values(text)]

  def decode(self, tokens: np.ndarray) -> bytes:
    """Tokens [N] back to bytes."""
    return self.symbols[np.asarray(tokens)].tobytes()


def build_vocabulary(text: bytes | np.ndarray) -> Vocabulary:
  """The vocabulary of a text's own bytes."""
  return vocabulary_of_counts(histogram(byte_values(text), 256))


def vocabulary_of_counts(counts: np.ndarray) -> Vocabulary:
  """The vocabulary of the bytes that occur: counts [256]."""
  return Vocabulary(np.flatnonzero(counts).astype(np.uint8))


def byte_values(text: bytes | np.ndarray) -> np.ndarray:
  """A text as uint8, without a copy.

  Raises:
    TypeError: it is neither bytes nor a uint8 array.
  """
  if isinstance(text, bytes):
    return np.frombuffer(text, np.uint8)
  if not isinstance(text, np.ndarray) or text.dtype != np.uint8:
    raise TypeError(f"text must be bytes or a uint8 array, got {getattr(text, 'dtype', text)!r}.")
  return text


def _letter(values: np.ndarray, at: int) -> tuple[str | bytes, int]:
  """The letter that the byte at a place is part of, and where it begins; else the byte itself."""
  for start in range(at, max(at - 4, -1), -1):
    letter = values[start : start + 4].tobytes().decode(errors="replace")[0]
    whole = letter.encode()
    if start + len(whole) > at and values[start : start + len(whole)].tobytes() == whole:
      return letter, start
  return values[at : at + 1].tobytes(), at
