"""Real text as tokens: corpus, vocabulary, lanes."""

from rnn_jax.text.corpus import (
  STANDARD_LIBRARY,
  Corpus,
  lanes,
  load_corpus,
  standard_library_files,
)
from rnn_jax.text.vocabulary import Vocabulary, build_vocabulary

__all__ = [
  "STANDARD_LIBRARY",
  "Corpus",
  "Vocabulary",
  "build_vocabulary",
  "lanes",
  "load_corpus",
  "standard_library_files",
]
