"""The text that a language model learns: a training part, a held-out part, and the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.language_model.settings import CHARACTERS, CHUNK, Settings
from rnn_jax.text import (
  Corpus,
  Source,
  Vocabulary,
  Windows,
  WordVocabulary,
  build_vocabulary,
  build_word_vocabulary,
  entropy,
  histogram,
  load_corpus,
  make_reader,
  make_source,
  split,
)
from rnn_jax.text.counts import blocks


class Texts(NamedTuple):
  """The text that a model is trained on, and the text that it is evaluated on.

  Attributes:
    corpus: both texts together, cut to the number of bytes in the setting `characters`.
    vocabulary: the vocabulary that encodes both texts.
    train: the text to train on.
    held_out: the text that training does not read; None if nothing is held out.
    read: `i -> Windows`, the i-th batch of `CHUNK` windows of the training text.
  """

  corpus: Corpus
  vocabulary: Vocabulary | WordVocabulary
  train: Source
  held_out: Source | None
  read: Callable[[int], Windows]

  @property
  def evaluated(self) -> Source:
    """The text to evaluate on: the held-out text or, if nothing is held out, the training text."""
    return self.train if self.held_out is None else self.held_out


def read_texts(settings: Settings, vocabulary: Vocabulary | WordVocabulary | None = None) -> Texts:
  """Loads the corpus, splits it in two, and builds the vocabulary.

  Args:
    settings: the settings that say which text to load, and how to split it into tokens.
    vocabulary: a trained model's vocabulary; None to build one from the text. A vocabulary of words
      is built from the training part alone, so that held-out words may be unknown.
  Raises:
    ValueError: if the text cannot be loaded, or does not fit a setting; the message names the
      setting.
  """
  corpus = load_corpus(settings.corpus)
  if settings.characters is not None and settings.characters < len(corpus.text):
    text = corpus.text[: settings.characters]
    corpus = corpus._replace(text=text, vocabulary=build_vocabulary(text))
  parts = split(corpus.text, settings.validation_share)
  if vocabulary is None and settings.level == CHARACTERS:
    vocabulary = corpus.vocabulary
  elif vocabulary is None:
    vocabulary = build_word_vocabulary(
      parts[0], settings.level, settings.min_count, settings.max_vocabulary
    )
  train, held_out = (make_source(corpus._replace(text=part), vocabulary) for part in parts)
  size = len(held_out.symbols)
  if settings.validation_share == 0 and len(train.symbols) < 2:
    raise ValueError(f"corpus must have at least 2 tokens, got {len(train.symbols)}.")
  if settings.validation_share > 0 and size < 2:
    raise ValueError(
      f"validation_share must be 0 or hold out at least 2 tokens, got {size} of "
      f"{len(train.symbols) + size}."
    )
  read = make_reader(
    settings.reading, train, settings.batch_size, settings.window, CHUNK, settings.seed
  )
  return Texts(corpus, vocabulary, train, held_out if settings.validation_share > 0 else None, read)


def unigram_loss(source: Source, vocabulary_size: int) -> float:
  """Returns the loss in nats of a model that always predicts the frequencies of a text's tokens."""
  counts = [histogram(source.encode(part), vocabulary_size) for _, part in blocks(source.symbols)]
  return entropy(np.sum(counts, axis=0))
