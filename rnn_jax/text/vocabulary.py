"""Characters as integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Vocabulary(NamedTuple):
  """The distinct bytes of a text, in order; a token is a byte's place among them.

  Attributes:
    symbols: uint8 [V], sorted.
  """

  symbols: np.ndarray

  @property
  def size(self) -> int:
    """V, the number of distinct tokens."""
    return len(self.symbols)

  def encode(self, text: bytes) -> np.ndarray:
    """Bytes to tokens, uint8 [N].

    Raises:
      ValueError: naming the first byte that the vocabulary does not hold.
    """
    values = np.frombuffer(text, np.uint8)
    known = np.zeros(256, bool)
    known[self.symbols] = True
    if not known[values].all():
      at = int(np.argmin(known[values]))
      raise ValueError(f"text holds {text[at : at + 1]!r} at byte {at}, not in the vocabulary.")
    token_of = np.zeros(256, np.uint8)
    token_of[self.symbols] = np.arange(self.size)
    return token_of[values]

  def decode(self, tokens: np.ndarray) -> bytes:
    """Tokens [N] back to bytes."""
    return self.symbols[np.asarray(tokens)].tobytes()


def build_vocabulary(text: bytes) -> Vocabulary:
  """The vocabulary of a text's own bytes."""
  counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
  return Vocabulary(np.flatnonzero(counts).astype(np.uint8))
