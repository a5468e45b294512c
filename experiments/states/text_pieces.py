"""Tokens as they are shown, one by one."""

from __future__ import annotations

import codecs

import numpy as np

from rnn_jax.text import Vocabulary, WordVocabulary


def text_pieces(vocabulary: Vocabulary | WordVocabulary, tokens: np.ndarray) -> list[str]:
  """The text of each token.

  A word has the space behind it that separates it from the next one. Of a letter that is several
  bytes, the last has it all and the others have nothing; what is no UTF-8 is written as \\xff.

  Args:
    vocabulary: of the tokens.
    tokens: [T].
  Returns:
    T texts.
  """
  if isinstance(vocabulary, WordVocabulary):
    words = [vocabulary.decode(token[None]) for token in np.asarray(tokens)]
    texts = [word.decode(errors="backslashreplace") for word in words]
    return [text if text == "\n" else f"{text} " for text in texts]
  decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
  return [decoder.decode(bytes([byte])) for byte in vocabulary.decode(tokens)]
