"""Conversion of vocabularies to JSON and back, for saving them with a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_jax.text.vocabulary import Vocabulary
from rnn_jax.text.words import EOS, SPLITS, UNK, WordVocabulary


def vocabulary_to_json(vocabulary: Vocabulary | WordVocabulary) -> dict[str, object]:
  """Returns a vocabulary as a dict for `json.dumps`: its level, and its symbols in token order.

  The level is `character` or `word`. A vocabulary of words also has an entry `split`.

  Raises:
    TypeError: if `vocabulary` is not a vocabulary.
  """
  if not isinstance(vocabulary, Vocabulary | WordVocabulary):
    raise TypeError(
      f"vocabulary must be a Vocabulary or a WordVocabulary, got {type(vocabulary).__name__}."
    )
  if isinstance(vocabulary, Vocabulary):
    return {"level": "character", "symbols": vocabulary.symbols.tolist()}
  return {"level": "word", "split": vocabulary.split, "symbols": list(vocabulary.words)}


def vocabulary_from_json(saved: Mapping[str, object]) -> Vocabulary | WordVocabulary:
  """Returns the vocabulary that `vocabulary_to_json` turned into the dict `saved`.

  Raises:
    ValueError: if an entry is missing or invalid; the message names the entry.
  """
  if not isinstance(saved, Mapping):
    raise ValueError(f"vocabulary must be an object with level and symbols, got {saved!r:.60}.")
  level, symbols = saved.get("level"), saved.get("symbols")
  if level not in ("character", "word"):
    raise ValueError(f"vocabulary must have the level 'character' or 'word', got {level!r:.60}.")
  if not isinstance(symbols, list) or not symbols:
    raise ValueError(f"vocabulary must have a list of symbols, got {symbols!r:.60}.")
  if level == "character":
    if not all(type(s) is int and 0 <= s < 256 for s in symbols) or symbols != sorted(set(symbols)):
      raise ValueError("vocabulary must have bytes as symbols, from 0 to 255, each once, sorted.")
    return Vocabulary(np.array(symbols, np.uint8))
  split = saved.get("split")
  if split not in list(SPLITS):
    raise ValueError(f"vocabulary must have a split of {', '.join(SPLITS)}, got {split!r:.60}.")
  if not all(isinstance(s, str) for s in symbols) or len(set(symbols)) < len(symbols):
    raise ValueError("vocabulary must have words as symbols, each once.")
  if symbols[:2] != [UNK, EOS]:
    raise ValueError(f"vocabulary must begin with {UNK} and {EOS}, got {symbols[:2]!r:.60}.")
  return WordVocabulary(tuple(symbols), split)
