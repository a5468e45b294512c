"""Text as tokens: corpora, vocabularies of characters and words, and readers that draw batches."""

from rnn_jax.text.corpus import STANDARD_LIBRARY, Corpus, lanes, load_corpus
from rnn_jax.text.counts import entropy, histogram
from rnn_jax.text.reading import (
  READINGS,
  Source,
  Windows,
  evaluation_windows,
  line_spans,
  make_reader,
  make_source,
  split,
)
from rnn_jax.text.saved import vocabulary_from_json, vocabulary_to_json
from rnn_jax.text.vocabulary import Vocabulary, build_vocabulary
from rnn_jax.text.words import SPLITS, WordVocabulary, build_word_vocabulary

__all__ = [
  "READINGS",
  "SPLITS",
  "STANDARD_LIBRARY",
  "Corpus",
  "Source",
  "Vocabulary",
  "Windows",
  "WordVocabulary",
  "build_vocabulary",
  "build_word_vocabulary",
  "entropy",
  "evaluation_windows",
  "histogram",
  "lanes",
  "line_spans",
  "load_corpus",
  "make_reader",
  "make_source",
  "split",
  "vocabulary_from_json",
  "vocabulary_to_json",
]
