"""The text of each token."""

from __future__ import annotations

import codecs

import numpy as np
from jaxtyping import Integer

from rnn_jax.text import Vocabulary, WordVocabulary


def text_pieces(
  vocabulary: Vocabulary | WordVocabulary, tokens: Integer[np.ndarray, " T"]
) -> list[str]:
  """Returns the text of each token.

  A word includes the space that separates it from the next one. Of a letter of several bytes, the
  last byte has the whole letter and the others are empty; bytes that are not UTF-8 are written as
  \\xff.

  Args:
    vocabulary: the vocabulary of the tokens.
    tokens: the tokens.
  Returns:
    T texts.
  """
  if isinstance(vocabulary, WordVocabulary):
    words = [vocabulary.decode(token[None]) for token in np.asarray(tokens)]
    texts = [word.decode(errors="backslashreplace") for word in words]
    return [text if text == "\n" else f"{text} " for text in texts]
  decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
  return [decoder.decode(bytes([byte])) for byte in vocabulary.decode(tokens)]
