"""Vocabularies of words."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from rnn_jax import checks
from rnn_jax.text.counts import blocks
from rnn_jax.text.vocabulary import byte_values, token_values

UNK, EOS = "<unk>", "<eos>"

# Patterns of a word. A newline is always a token; other white space only separates words.
SPLITS: Mapping[str, re.Pattern[str]] = {
  # A run of word characters, or any other single character.
  "word": re.compile(rf"\n|{UNK}|{EOS}|\w+|[^\w\s]"),
  # For text that is already tokenized, such as the Penn Treebank.
  "whitespace": re.compile(r"\n|\S+"),
}


class WordVocabulary(NamedTuple):
  """The words of a text, the most frequent first; a word's index among them is its token.

    <unk>, <eos>, w_2, w_3, …

  - A newline is encoded as `<eos>`, and so is the word `<eos>` itself.
  - An empty line is a single `<eos>`; a last line without a newline has no `<eos>`.
  - A word that the vocabulary lacks is encoded as `<unk>`.
  - A byte that is not part of valid UTF-8 counts as one character; decoding restores it.

  Attributes:
    words: the V words, `<unk>` and `<eos>` first.
    split: how a text is split into words, a name in SPLITS.
  """

  words: tuple[str, ...]
  split: str = "word"

  @property
  def size(self) -> int:
    """V, the number of distinct tokens."""
    return len(self.words)

  @property
  def unk(self) -> int:
    """The token of every word that the vocabulary lacks."""
    return 0

  @property
  def eos(self) -> int:
    """The token that ends a line."""
    return 1

  def encode(self, text: bytes | UInt8[np.ndarray, " bytes"]) -> Int32[np.ndarray, " N"]:
    """Returns the tokens of a text, given as bytes or as a uint8 array: int32 [N], one per word."""
    token_of = {word: token for token, word in enumerate(self.words)}
    token_of["\n"] = self.eos
    tokens = [np.zeros(0, np.int32)]
    for words in _words(text, self.split):
      known = map(token_of.get, words, itertools.repeat(self.unk))
      tokens.append(np.fromiter(known, np.int32, len(words)))
    return np.concatenate(tokens)

  def decode(self, tokens: Integer[np.ndarray, " N"] | Sequence[int]) -> bytes:
    """Returns the text of tokens [N] as bytes: lines of words, with one space between two words.

    Raises:
      TypeError, ValueError: if the tokens are not integers [N] from 0 to V − 1.
    """
    known = token_values(tokens, self.size)
    words = ("\n" if token == self.eos else self.words[token] for token in known)
    text = " ".join(words).replace(" \n", "\n").replace("\n ", "\n")
    return text.encode(errors="surrogateescape")


def build_word_vocabulary(
  text: bytes | UInt8[np.ndarray, " bytes"],
  split: str = "word",
  min_count: int = 1,
  max_size: int | None = None,
) -> WordVocabulary:
  """Builds the vocabulary of a text's words, sorted by descending frequency, then alphabetically.

  Args:
    text: the text, as bytes or as a uint8 array.
    split: how the text is split into words, a name in SPLITS.
    min_count: words that occur less often than this are left out, and encoded as `<unk>`.
    max_size: largest V, including `<unk>` and `<eos>`, at least 3; the rarest words are left out.
      None for no limit.
  Raises:
    TypeError, ValueError: if `split` is unknown, a number is out of range, or `text` is not bytes.
  References:
    Mikolov et al., 2010, https://doi.org/10.21437/Interspeech.2010-343
  """
  checks.choice("split", split, SPLITS)
  checks.integer("min_count", min_count)
  if max_size is not None:
    checks.integer("max_size", max_size, minimum=3)
  counts: Counter[str] = Counter()
  for words in _words(text, split):
    counts.update(words)
  for special in (UNK, EOS, "\n"):
    del counts[special]
  by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
  frequent = [UNK, EOS, *(word for word in by_frequency if counts[word] >= min_count)]
  return WordVocabulary(tuple(frequent[:max_size]), split)


def _words(text: bytes | UInt8[np.ndarray, " bytes"], split: str) -> Iterator[list[str]]:
  """Yields the words of each block of a text; a block ends in white space or with the text."""
  find, rest = SPLITS[split].findall, b""
  for _, block in blocks(byte_values(text)):
    rest += block.tobytes()
    end = max(rest.rfind(b"\n"), rest.rfind(b" ")) + 1
    yield find(rest[:end].decode(errors="surrogateescape"))
    rest = rest[end:]
  yield find(rest.decode(errors="surrogateescape"))
