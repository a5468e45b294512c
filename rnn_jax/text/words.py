"""Words as integers."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rnn_jax import checks
from rnn_jax.text.counts import blocks
from rnn_jax.text.vocabulary import byte_values

UNK, EOS = "<unk>", "<eos>"

# What counts as a word. In both a newline is a token, and all other white space only separates.
SPLITS: Mapping[str, re.Pattern[str]] = {
  "word": re.compile(rf"\n|{UNK}|{EOS}|\w+|[^\w\s]"),  # a run of word characters, or one other
  "whitespace": re.compile(r"\n|\S+"),  # of text that is tokenised already, as Penn Treebank's is
}


class WordVocabulary(NamedTuple):
  """The words of a text, the most frequent first; a token is a word's place among them.

    <unk>, <eos>, w_2, w_3, …

  A newline is `<eos>` and nothing else is, but for that word itself: an empty line is `<eos>`
  alone, a last line without a newline has none. Words that are not here are `<unk>`. Bytes that
  are no UTF-8 are one character each, and come back as they were.

  Attributes:
    words: V of them, `<unk>` and `<eos>` first.
    split: how a text is cut into words, a name in SPLITS.
  """

  words: tuple[str, ...]
  split: str = "word"

  @property
  def size(self) -> int:
    """V, the number of distinct tokens."""
    return len(self.words)

  @property
  def unk(self) -> int:
    """The token of all words that are not in the vocabulary."""
    return 0

  @property
  def eos(self) -> int:
    """The token that ends a line."""
    return 1

  def encode(self, text: bytes | np.ndarray) -> np.ndarray:
    """Bytes, or a uint8 array of them, to tokens: int32 [N]."""
    token_of = {word: token for token, word in enumerate(self.words)}
    token_of["\n"] = self.eos
    tokens = [np.zeros(0, np.int32)]
    for words in _words(text, self.split):
      known = map(token_of.get, words, itertools.repeat(self.unk))
      tokens.append(np.fromiter(known, np.int32, len(words)))
    return np.concatenate(tokens)

  def decode(self, tokens: np.ndarray) -> bytes:
    """Tokens [N] to bytes: words with single spaces between them, and lines."""
    words = ("\n" if token == self.eos else self.words[token] for token in tokens)
    text = " ".join(words).replace(" \n", "\n").replace("\n ", "\n")
    return text.encode(errors="surrogateescape")


def build_word_vocabulary(
  text: bytes | np.ndarray,
  split: str = "word",
  min_count: int = 1,
  max_size: int | None = None,
) -> WordVocabulary:
  """The vocabulary of a text's own words, by falling frequency, then by alphabet.

  Args:
    text: bytes, or a uint8 array of them.
    split: how it is cut into words, a name in SPLITS.
    min_count: words that occur less often are `<unk>`.
    max_size: largest V, `<unk>` and `<eos>` included, at least 3: rarer words are `<unk>`. None
      for all.
  Returns:
    The WordVocabulary.
  Raises:
    ValueError, TypeError: naming the argument, the rule and what came.
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


def _words(text: bytes | np.ndarray, split: str) -> Iterator[list[str]]:
  """The words of a text, stretch by stretch; a stretch ends in white space, or with the text."""
  find, rest = SPLITS[split].findall, b""
  for _, block in blocks(byte_values(text)):
    rest += block.tobytes()
    end = max(rest.rfind(b"\n"), rest.rfind(b" ")) + 1
    yield find(rest[:end].decode(errors="surrogateescape"))
    rest = rest[end:]
  yield find(rest.decode(errors="surrogateescape"))
