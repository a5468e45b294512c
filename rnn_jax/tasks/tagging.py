"""The tagging task: predict the token class (keyword, name, …) of each character of a line."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.tasks.baselines import count_answers, guess_entropy
from rnn_jax.tasks.examples import PARTS, Part, check_batch_size, draw
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.text import STANDARD_LIBRARY, Corpus, Vocabulary, build_vocabulary
from rnn_jax.text.corpus import standard_library_files
from rnn_jax.text.python_source import CLASSES, TaggedLine, tagged_lines

# The task uses every 8th file of the standard library: 20,000 lines, read in half a second.
_EVERY = 8


class Lines(NamedTuple):
  """N lines of Python, padded with zeros to T characters.

  Attributes:
    tokens: uint8 [N, T], the characters.
    classes: uint8 [N, T], each character's token class, an index into `CLASSES`.
    lengths: int32 [N], number of characters before the padding.
  """

  tokens: UInt8[np.ndarray, "N T"]
  classes: UInt8[np.ndarray, "N T"]
  lengths: Int[np.ndarray, " N"]


class TaggedText(NamedTuple):
  """Tagged Python source, split into a training and a test part that share a vocabulary.

  Attributes:
    train, test: the lines of each part.
    vocabulary: the characters that occur in either part.
  """

  train: Sequence[TaggedLine]
  test: Sequence[TaggedLine]
  vocabulary: Vocabulary


def tagging(
  sequence_length: int, batch_size: int | None, corpus: Corpus | None = None, part: Part = "train"
) -> Task:
  """Builds an aligned many-to-many task: classify each character of a line of Python.

    L = −(1/n) Σ_t ln p(class of x_t | x_1 … x_t)    for a line of n characters

  A bidirectional network predicts from the whole line, x_1 … x_n. The classes are the token classes
  of `tagged_lines`, which uses the standard library's tokenizer. The baseline loss is that of
  predicting each class's frequency in the training part. `class_entropy` with `given_character`
  computes a stronger baseline: that of a model which knows x_t.

  Args:
    sequence_length: T; longer lines are left out, shorter lines are padded.
    batch_size: B, number of lines per batch, drawn without repeats; None for the whole part.
    corpus: one Python file, from `load_corpus`; a sample of the standard library if None.
    part: `train` or `test`, as in `load_tagged`: the lines in `data`. The held-out lines are those
      of the test part in both cases; a held-out batch has all of them if they are fewer than B.
  Returns:
    The Task, whose batches have tokens [T, B], targets [T, B] (indices into `CLASSES`), and lengths
    [B].
  Raises:
    TypeError, ValueError: if an argument is out of range, every line of a part is longer than T, or
      the text is not Python.
  """
  checks.integer("sequence_length", sequence_length)
  checks.choice("part", part, PARTS)
  text = load_tagged(corpus)
  train = _padded(text.train, sequence_length, text.vocabulary, "train")
  test = _padded(text.test, sequence_length, text.vocabulary, "test")
  lines = train if part == "train" else test
  check_batch_size(batch_size, len(lines.lengths), part)

  def batch(data: Lines, key: Key[Array, ""]) -> Batch:
    chosen = draw(key, data.lengths.shape[0], batch_size)
    tokens, classes, lengths = (jnp.asarray(a)[chosen].astype(jnp.int32) for a in data)
    mask = jnp.arange(sequence_length, dtype=jnp.int32)[:, None] < lengths[None]
    return Batch(tokens.T, classes.T, mask, lengths)

  sizes = len(CLASSES), text.vocabulary.size
  baseline = class_entropy(train)
  return Task(lines, test, batch, cross_entropy, "nats per character", baseline, *sizes)


def class_entropy(lines: Lines, *, given_character: bool = False) -> float:
  """Returns the entropy of a character's class, H(class), or H(class | character), in nats."""
  valid = np.arange(lines.tokens.shape[1]) < lines.lengths[:, None]
  positions = lines.tokens[valid] if given_character else np.zeros(valid.sum(), np.uint8)
  return guess_entropy(count_answers(positions, lines.classes[valid], 256, len(CLASSES)))


def load_tagged(corpus: Corpus | None = None) -> TaggedText:
  """Returns lines of Python with the token class of each character, split into train and test.

  Of the standard library, only every eighth file is read, and files that cannot be tokenized are
  left out. Among its top-level packages and modules, in alphabetical order, every fifth is for
  testing. The split is by package because files of one package can be very similar. Of a single
  file, the last fifth of the lines is for testing.

  Args:
    corpus: one Python file; None, or the corpus `stdlib`, for the standard library.
  Raises:
    TypeError: if `corpus` is not a `Corpus`.
    ValueError: if the file cannot be tokenized as Python, or has fewer than two lines.
  """
  if corpus is None:
    return _standard_library()
  checks.instance("corpus", corpus, Corpus, "load_corpus")
  if corpus.name == STANDARD_LIBRARY:
    return _standard_library()
  try:
    lines = tagged_lines(corpus.text.tobytes())
  except ValueError as error:
    raise ValueError(f"corpus {corpus.name}: {error}") from None
  if len(lines) < 2:
    raise ValueError(
      f"corpus {corpus.name} must have at least two lines that are not empty, got {len(lines)}."
    )
  cut = min(-(-4 * len(lines) // 5), len(lines) - 1)
  return _text(lines[:cut], lines[cut:])


@functools.cache
def _standard_library() -> TaggedText:
  root, files = standard_library_files()
  packages = sorted({path.relative_to(root).parts[0] for path in files})
  test = set(packages[4::5])
  parts: dict[bool, list[TaggedLine]] = {True: [], False: []}
  for path in files[::_EVERY]:
    try:
      lines = tagged_lines(path.read_bytes())
    except (OSError, ValueError):
      continue
    parts[path.relative_to(root).parts[0] in test] += lines
  return _text(parts[False], parts[True])


def _text(train: Sequence[TaggedLine], test: Sequence[TaggedLine]) -> TaggedText:
  return TaggedText(train, test, build_vocabulary(b"".join(line.text for line in (*train, *test))))


def _padded(lines: Sequence[TaggedLine], length: int, vocabulary: Vocabulary, part: Part) -> Lines:
  """Returns the lines of at most `length` characters, as tokens padded with zeros to `length`.

  Raises:
    ValueError: if every line is longer; the message names `part`.
  """
  short = [line for line in lines if len(line.text) <= length]
  if not short:
    least = min(len(line.text) for line in lines)
    raise ValueError(
      f"sequence_length must be at least {least}, the shortest line of part {part}, got {length}."
    )
  lengths = np.array([len(line.text) for line in short], np.int32)
  tokens, classes = np.zeros((2, len(short), length), np.uint8)
  valid = np.arange(length) < lengths[:, None]
  tokens[valid] = vocabulary.encode(b"".join(line.text for line in short))
  classes[valid] = np.concatenate([line.classes for line in short])
  return Lines(tokens, classes, lengths)
