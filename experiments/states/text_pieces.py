"""The text that each token stands for."""

from __future__ import annotations

import codecs

import numpy as np
from jaxtyping import Integer

from rnn_jax.text import Vocabulary, WordVocabulary


def text_pieces(
  vocabulary: Vocabulary | WordVocabulary,
  tokens: Integer[np.ndarray, " T"],
  errors: str = "backslashreplace",
) -> list[str]:
  """Returns the text of each token.

  The text of a word includes the space that separates it from the next word. A token of a character
  model is one byte. In a letter of several bytes, the last byte's text is the whole letter, and the
  text of the bytes before it is ''. Bytes that are not UTF-8 become escapes, such as \\xff, unless
  `errors` says otherwise.

  Args:
    vocabulary: the vocabulary of the tokens.
    tokens: the tokens.
    errors: how bytes that are not UTF-8 are decoded; see `bytes.decode`.
  Returns:
    One text per token.
  """
  if isinstance(vocabulary, WordVocabulary):
    words = [vocabulary.decode(token[None]) for token in np.asarray(tokens)]
    texts = [word.decode(errors=errors) for word in words]
    return [text if text == "\n" else f"{text} " for text in texts]
  decoder = codecs.getincrementaldecoder("utf-8")(errors)
  return [decoder.decode(bytes([byte])) for byte in vocabulary.decode(tokens)]
