"""Readers: functions that cut a text into batches of windows, for training and for evaluation.

A window is k consecutive time steps, over which `train_windows` backpropagates; a lane is one of B
contiguous parts of a text, which are read in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Integer

from rnn_jax import checks
from rnn_jax.text.corpus import Corpus
from rnn_jax.text.counts import blocks
from rnn_jax.text.vocabulary import Vocabulary
from rnn_jax.text.words import WordVocabulary


class Source(NamedTuple):
  """A text, and a function that encodes its symbols as tokens when they are read.

  A part of the text is `source._replace(symbols=source.symbols[a:b])`.

  Attributes:
    symbols: [N], the bytes of a text, which may be memory-mapped, or its tokens.
    encode: function from symbols of any shape to int32 tokens of the same shape.
    eos: the token that ends a line; None if the vocabulary has no newline.
  """

  symbols: Integer[np.ndarray, " N"]
  encode: Callable[[Integer[np.ndarray, "*shape"]], Int32[np.ndarray, "*shape"]]
  eos: int | None


class Windows(NamedTuple):
  """A batch of n consecutive windows of k steps, in the layout that `train_windows` takes.

  Attributes:
    tokens: int32 [n·k, B], the inputs.
    targets: int32 [n·k, B], the tokens one step later.
    mask: bool [n·k, B], True at the steps whose loss counts.
    resets: bool [n·k, B], True at the steps before which the carry is reset to the initial carry.
  """

  tokens: Int32[np.ndarray, "steps B"]
  targets: Int32[np.ndarray, "steps B"]
  mask: Bool[np.ndarray, "steps B"]
  resets: Bool[np.ndarray, "steps B"]


# Type of a reading, with the arguments of `make_reader`: B lanes, windows of k steps, n windows.
# (source, B, k, n, seed) -> (i -> the i-th batch of n windows)
Reading = Callable[[Source, int, int, int, int], Callable[[int], Windows]]


def make_source(corpus: Corpus, vocabulary: Vocabulary | WordVocabulary) -> Source:
  """Returns a corpus as a Source, whose text is encoded with the given vocabulary.

  With a vocabulary of characters, the text is encoded only when it is read; with a vocabulary of
  words, this function encodes all of it.

  Args:
    corpus: the text, from `load_corpus`.
    vocabulary: a vocabulary of words, or one of characters that has every character of the text.
  Raises:
    TypeError: if an argument has the wrong type.
    ValueError: if the vocabulary lacks a character of the text; the message names the first one.
  """
  checks.instance("corpus", corpus, Corpus, "load_corpus")
  if not isinstance(vocabulary, Vocabulary | WordVocabulary):
    raise TypeError(
      f"vocabulary must be a Vocabulary or a WordVocabulary, got {type(vocabulary).__name__}."
    )
  if isinstance(vocabulary, WordVocabulary):
    return Source(vocabulary.encode(corpus.text), lambda tokens: tokens, vocabulary.eos)
  if not np.isin(corpus.vocabulary.symbols, vocabulary.symbols).all():
    vocabulary.check(corpus.text)
  encode = vocabulary.encode
  return Source(corpus.text, lambda symbols: encode(symbols).astype(np.int32), vocabulary.eos)


def split(
  text: Integer[np.ndarray, " N"], validation_share: float
) -> tuple[Integer[np.ndarray, " train"], Integer[np.ndarray, " validation"]]:
  """Splits a text into (training part, validation part); the validation part is its end.

  Args:
    text: symbols [N].
    validation_share: p, with 0 ≤ p < 1; the last ⌊p N⌋ symbols are the validation part.
  Raises:
    TypeError, ValueError: if `validation_share` is not in [0, 1), or `text` is not [N].
  """
  if np.ndim(text) != 1:
    raise ValueError(f"text must be [N], got {list(np.shape(text))}.")
  checks.number("validation_share", validation_share, minimum=0, below=1)
  cut = len(text) - int(validation_share * len(text))
  return text[:cut], text[cut:]


def make_reader(
  name: str, source: Source, batch_size: int, window: int, count: int, seed: int
) -> Callable[[int], Windows]:
  """Returns a function that reads windows of a text for training.

    stream    The text is cut into B contiguous lanes, which are read in parallel, window after
              window; the carry is passed from each window to the next. Each pass through the text
              starts at a random offset below k, with a new carry, and skips the last tokens of
              each lane if they do not fill a window.
    windows   Each window starts at a random position of the text, from a new carry.
    lines     Each window holds one whole line, drawn uniformly, and starts from a new carry. The
              first input and the last target are <eos>; steps after the last target are masked.
              Lines of more than k tokens, <eos> included, are left out; `line_spans` returns the
              length of every line.

  Args:
    name: `stream`, `windows` or `lines`.
    source: the text, from `make_source`.
    batch_size: B.
    window: k, time steps of a window.
    count: n, number of windows per call.
    seed: random seed, at least 0.
  Returns:
    `i -> Windows`, the i-th batch of n windows, i = 0, 1, 2, …; a batch depends on the source,
    the seed and i alone.
  Raises:
    TypeError, ValueError: if an argument is out of range, or if the text is too short, has no
      lines, or has only lines of more than k tokens.
  References:
    Zhang et al., Dive into Deep Learning, section 9.3, https://d2l.ai, where `stream` is called
    sequential partitioning and `windows` random sampling
  """
  checks.instance("source", source, Source, "make_source")
  reading = READINGS[checks.choice("reading", name, READINGS)]
  _check_sizes(batch_size, window, count)
  checks.integer("seed", seed, minimum=0)
  return reading(source, batch_size, window, count, seed)


def _stream(
  source: Source, batch_size: int, window: int, count: int, seed: int
) -> Callable[[int], Windows]:
  size = len(source.symbols)
  offsets = min(window, size - batch_size * window)
  if offsets < 1:
    raise ValueError(
      f"batch_size · window must be below the {size} tokens of the text, "
      f"got {batch_size} · {window}."
    )
  lane = (size - offsets) // batch_size
  in_pass = lane // window

  def read(i: int) -> Windows:
    passes, indices = np.divmod(i * count + np.arange(count), in_pass)
    starts = [_random(seed, number).integers(offsets) for number in passes] + indices * window
    steps = (starts[:, None] + np.arange(window)).reshape(-1, 1)
    resets = np.zeros((count, window, batch_size), bool)
    resets[indices == 0, 0] = True
    return _windows(source, steps + lane * np.arange(batch_size), resets)

  return read


def _anywhere(
  source: Source, batch_size: int, window: int, count: int, seed: int
) -> Callable[[int], Windows]:
  size = len(source.symbols)
  if size <= window:
    raise ValueError(f"window must be below the {size} tokens of the text, got {window}.")

  def read(i: int) -> Windows:
    starts = _random(seed, i).integers(size - window, size=(count, 1, batch_size))
    positions = starts + np.arange(window)[:, None]
    return _windows(source, positions.reshape(-1, batch_size), _window_starts(positions.shape))

  return read


def _lines(
  source: Source, batch_size: int, window: int, count: int, seed: int
) -> Callable[[int], Windows]:
  starts, lengths = line_spans(source)
  fits = lengths <= window
  if not fits.any():
    raise ValueError(f"window must be at least {lengths.min()}, the shortest line, got {window}.")
  starts, lengths = starts[fits], lengths[fits]

  def read(i: int) -> Windows:
    lines = _random(seed, i).integers(len(starts), size=(count, 1, batch_size))
    steps = np.arange(window)[:, None]
    positions = np.minimum(starts[lines] + steps, len(source.symbols) - 1)
    found = source.encode(source.symbols[positions])
    # The target is <eos> from a line's last step on. It is set explicitly, because the text's last
    # line may not end with a newline.
    ends = np.full_like(found, source.eos)
    targets = np.where(steps < lengths[lines] - 1, found, ends)
    tokens = np.concatenate([ends[:, :1], targets[:, :-1]], axis=1)
    parts = tokens, targets, steps < lengths[lines], _window_starts(targets.shape)
    return Windows(*(part.reshape(-1, batch_size) for part in parts))

  return read


READINGS: Mapping[str, Reading] = {"stream": _stream, "windows": _anywhere, "lines": _lines}


def line_spans(source: Source) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
  """Returns the start index and the number of tokens of each of a text's M lines, both int64 [M].

  The number includes the line's <eos>. An <eos> is also counted for a last line without a newline.

  Raises:
    TypeError: if `source` is not a Source.
    ValueError: if the vocabulary has no <eos>, because the text has no newline.
  """
  checks.instance("source", source, Source, "make_source")
  if source.eos is None or len(source.symbols) == 0:
    raise ValueError("reading 'lines' needs a text with lines, got one without a newline.")
  found = [
    start + np.flatnonzero(source.encode(block) == source.eos)
    for start, block in blocks(source.symbols)
  ]
  starts = np.concatenate([[0], *found])
  starts[1:] += 1
  lengths = np.diff(starts, append=len(source.symbols) + 1)
  # A final <eos> does not start another line.
  last = len(starts) - (starts[-1] == len(source.symbols))
  return starts[:last], lengths[:last]


def evaluation_windows(
  source: Source, batch_size: int, window: int, count: int, by_line: bool = False
) -> Iterator[Windows]:
  """Reads a whole text once, in B contiguous lanes in parallel, window after window.

  The caller must pass the carry from each window to the next. Every token of the text is a target
  once, except the very first, which has no predecessor, and the last (N − 1) mod B, which would
  make the lanes unequal. If `by_line`, the first token is a target, too, predicted from an <eos>
  before it, and only the last N mod B tokens are left out. The last batch is padded with steps
  whose mask is False.

  Args:
    source: a text of N tokens, from `make_source`.
    batch_size: B, number of lanes.
    window: k, time steps of a window.
    count: n, number of windows in each yielded batch.
    by_line: whether each line starts from a new carry, as with `lines` in `make_reader`.
  Yields:
    Batches of n windows. The carry is reset at the first step of each lane and, if `by_line`, at
    every <eos>.
  Raises:
    TypeError, ValueError: if an argument is out of range, or the text has at most B tokens.
  """
  checks.instance("source", source, Source, "make_source")
  checks.boolean("by_line", by_line)
  _check_sizes(batch_size, window, count)
  size = len(source.symbols)
  if size <= batch_size:
    raise ValueError(f"batch_size must be below the {size} tokens of the text, got {batch_size}.")
  reset_at = source.eos if by_line else None
  targets = size - 1 if reset_at is None else size
  return _whole(source, batch_size, targets // batch_size, window * count, reset_at)


def _whole(
  source: Source, batch_size: int, lane: int, together: int, reset_at: int | None
) -> Iterator[Windows]:
  first = 0 if reset_at is None else -1  # position −1 is the <eos> before the text
  for start in range(0, lane, together):
    steps = np.arange(start, start + together)[:, None]
    positions = first + np.minimum(steps, lane - 1) + lane * np.arange(batch_size)
    valid = np.broadcast_to(steps < lane, positions.shape)
    windows = _windows(source, positions, np.broadcast_to(steps == 0, positions.shape))
    if reset_at is not None:
      tokens = np.where(positions < 0, np.int32(reset_at), windows.tokens)
      windows = windows._replace(tokens=tokens, resets=windows.resets | (tokens == reset_at))
    yield windows._replace(mask=valid)


def _windows(
  source: Source, positions: Int[np.ndarray, "steps B"], resets: Bool[np.ndarray, "*shape"]
) -> Windows:
  """Returns Windows with the tokens at `positions` [n·k, B] as inputs, and a mask of all True."""
  tokens, targets = (source.encode(source.symbols[at]) for at in (positions, positions + 1))
  mask = np.ones(positions.shape, bool)
  return Windows(tokens, targets, mask, resets.reshape(positions.shape))


def _window_starts(shape: tuple[int, ...]) -> Bool[np.ndarray, "n k B"]:
  """Returns a boolean array of the given shape (n, k, B), True at the first step of each window."""
  resets = np.zeros(shape, bool)
  resets[:, 0] = True
  return resets


def _random(seed: int, number: int | np.integer) -> np.random.Generator:
  return np.random.default_rng((seed, int(number)))


def _check_sizes(batch_size: int, window: int, count: int) -> None:
  checks.integer("batch_size", batch_size)
  checks.integer("window", window)
  checks.integer("count", count)
