"""Tests of the task `tagging`: train and test parts, padding and baselines."""

from __future__ import annotations

import collections
import math

import jax
import numpy as np
import pytest

from rnn_jax.tasks import tagging
from rnn_jax.tasks.tagging import class_entropy, load_tagged
from rnn_jax.text import STANDARD_LIBRARY, Corpus, build_vocabulary
from rnn_jax.text.python_source import CLASSES, tagged_lines


def corpus_of(text, name="tiny.py"):
  vocabulary = build_vocabulary(text)
  return Corpus(name, np.frombuffer(text, np.uint8), vocabulary, "")


TEXT = b"".join(b"if a%s: return %d # no\n" % (b"b" * (7 * i % 10), i) for i in range(10))
CORPUS = corpus_of(TEXT)


def drawn(task, seed=0):
  return jax.tree.map(np.asarray, jax.jit(task.batch)(task.data, jax.random.key(seed)))


@pytest.mark.parametrize(("part", "lines"), [("train", slice(8)), ("test", slice(8, 10))])
def test_a_batch_holds_the_lines_of_its_part_that_are_short_enough(part, lines):
  length = {"train": 25, "test": 40}[part]
  batch = drawn(tagging(length, None, CORPUS, part))
  expected = [line for line in tagged_lines(TEXT)[lines] if len(line.text) <= length]
  shown = {}
  for tokens, classes, n in zip(batch.xs.T, batch.targets.T, batch.lengths, strict=True):
    shown[CORPUS.vocabulary.decode(tokens[:n])] = classes[:n].tolist()
    assert not np.any(tokens[n:])
  assert len(expected) == {"train": 5, "test": 2}[part]
  assert batch.xs.shape == (length, len(expected))
  assert shown == {line.text: line.classes.tolist() for line in expected}


def test_baselines_are_the_entropies_of_the_training_part():
  pairs = [
    pair for line in tagged_lines(TEXT)[:8] for pair in zip(line.text, line.classes, strict=True)
  ]

  def entropy(pairs):
    of_class = collections.Counter(label for _, label in pairs)
    return -sum(math.log(of_class[label] / len(pairs)) for _, label in pairs) / len(pairs)

  by_character = collections.defaultdict(list)
  for pair in pairs:
    by_character[pair[0]].append(pair)
  given = sum(len(part) * entropy(part) for part in by_character.values()) / len(pairs)
  for part in ("train", "test"):
    assert tagging(40, 1, CORPUS, part).baseline == pytest.approx(entropy(pairs), rel=1e-12)
  lines = tagging(40, 1, CORPUS).data
  assert class_entropy(lines) == pytest.approx(entropy(pairs), rel=1e-12)
  assert class_entropy(lines, given_character=True) == pytest.approx(given, rel=1e-12)


def test_standard_library_is_sampled_and_its_parts_share_few_lines():
  task = tagging(80, 32)
  assert load_tagged(corpus_of(b"x", STANDARD_LIBRARY)) is load_tagged()
  train, test = (
    {line.text for line in lines} for lines in (load_tagged().train, load_tagged().test)
  )
  assert 10_000 < len(task.data.lengths) < 30_000
  assert len(test) > 1_000
  assert len(test & train) < 0.2 * len(test)
  assert task.output_size == len(CLASSES)
  assert task.vocabulary_size < 256
  assert class_entropy(task.data, given_character=True) < 0.6 * task.baseline
