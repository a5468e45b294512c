"""How batches are read from a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rnn_jax import checks
from rnn_jax.text.corpus import Corpus
from rnn_jax.text.counts import blocks
from rnn_jax.text.vocabulary import Vocabulary
from rnn_jax.text.words import WordVocabulary


class Source(NamedTuple):
  """A text that becomes tokens where it is read; a slice of its symbols is a part of the text.

  Attributes:
    symbols: [N], bytes of a text (memory-mapped, maybe), or tokens already.
    encode: symbols of any shape → int32 tokens of that shape.
    eos: the token that ends a line, None where there is none.
  """

  symbols: np.ndarray
  encode: Callable[[np.ndarray], np.ndarray]
  eos: int | None


class Windows(NamedTuple):
  """n windows of k steps, one after the other, as `train_windows` takes them.

  Attributes:
    tokens: int32 [n·k, B].
    targets: int32 [n·k, B], the tokens one step later.
    mask: bool [n·k, B], the steps whose loss counts.
    resets: bool [n·k, B], the steps that begin with a new carry.
  """

  tokens: np.ndarray
  targets: np.ndarray
  mask: np.ndarray
  resets: np.ndarray


# (source, B, k, n, seed) -> (i -> the i-th n windows)
Reading = Callable[[Source, int, int, int, int], Callable[[int], Windows]]


def make_source(corpus: Corpus, vocabulary: Vocabulary | WordVocabulary) -> Source:
  """A text to be read: characters are encoded where they are read, words all at once.

  Args:
    corpus: the text.
    vocabulary: of words, or of characters: the corpus's own, or another that holds all of them.
  Raises:
    ValueError: naming a character of the text that the vocabulary does not hold.
  """
  if isinstance(vocabulary, WordVocabulary):
    return Source(vocabulary.encode(corpus.text), lambda tokens: tokens, vocabulary.eos)
  if not np.isin(corpus.vocabulary.symbols, vocabulary.symbols).all():
    vocabulary.check(corpus.text)
  encode = vocabulary.encode
  return Source(corpus.text, lambda symbols: encode(symbols).astype(np.int32), vocabulary.eos)


def split(source: Source, validation_share: float) -> tuple[Source, Source]:
  """Cuts a text in two: what is trained on, and the share at its end that is held out.

  Args:
    source: N tokens.
    validation_share: p, from 0 to below 1; ⌊p N⌋ tokens are held out.
  Raises:
    ValueError, TypeError: validation_share is no such number.
  """
  checks.number("validation_share", validation_share, minimum=0)
  if validation_share >= 1:
    raise ValueError(f"validation_share must be below 1, got {validation_share:g}.")
  cut = len(source.symbols) - int(validation_share * len(source.symbols))
  return (
    source._replace(symbols=source.symbols[:cut]),
    source._replace(symbols=source.symbols[cut:]),
  )


def make_reader(
  name: str, source: Source, batch_size: int, window: int, count: int, seed: int
) -> Callable[[int], Windows]:
  """A way to read a text for training.

    stream    B contiguous lanes side by side, window after window, the carry handed on. Each pass
              begins at a random offset below k, with a new carry; what is left of the lanes, less
              than a window each, is not read in that pass.
    windows   k + 1 tokens from anywhere, each window with a new carry.
    lines     whole lines, each as likely as any other, from <eos> as the first input to <eos> as
              the last target, and nothing after it; each with a new carry. Lines of more than k
              steps are left out: `line_spans` tells how many.

  Args:
    name: one of READINGS.
    source: N tokens, from `make_source`.
    batch_size: B.
    window: k.
    count: n, windows that are read together.
    seed: at least 0.
  Returns:
    `i -> Windows`, the i-th n windows, i = 0, 1, 2, …; the same for the same seed and i.
  Raises:
    ValueError, TypeError: naming the argument, the rule and what came; the text is too short, has
    no lines, or none that fits.
  References:
    Zhang et al., Dive into Deep Learning, section 9.3, https://d2l.ai: sequential partitioning and
    random sampling
  """
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
    passes, places = np.divmod(i * count + np.arange(count), in_pass)
    starts = [_random(seed, number).integers(offsets) for number in passes] + places * window
    steps = (starts[:, None] + np.arange(window)).reshape(-1, 1)
    resets = np.zeros((count, window, batch_size), bool)
    resets[places == 0, 0] = True
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
    places = starts + np.arange(window)[:, None]
    return _windows(source, places.reshape(-1, batch_size), _window_starts(places.shape))

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
    places = np.minimum(starts[lines] + steps, len(source.symbols) - 1)
    found = source.encode(source.symbols[places])
    # A line's last step, and what is read beyond it, is <eos> even where the text ends without.
    ends = np.full_like(found, source.eos)
    targets = np.where(steps < lengths[lines] - 1, found, ends)
    tokens = np.concatenate([ends[:, :1], targets[:, :-1]], axis=1)
    parts = tokens, targets, steps < lengths[lines], _window_starts(targets.shape)
    return Windows(*(part.reshape(-1, batch_size) for part in parts))

  return read


READINGS: Mapping[str, Reading] = {"stream": _stream, "windows": _anywhere, "lines": _lines}


def line_spans(source: Source) -> tuple[np.ndarray, np.ndarray]:
  """Where each line starts, and how many tokens it has, its <eos> included: int64 [M] both.

  The end of the text ends a line too.

  Raises:
    ValueError: the vocabulary has no <eos>, as there is no newline in the text.
  """
  if source.eos is None or len(source.symbols) == 0:
    raise ValueError("reading 'lines' needs a text with lines, got one without a newline.")
  found = [
    start + np.flatnonzero(source.encode(block) == source.eos)
    for start, block in blocks(source.symbols)
  ]
  starts = np.concatenate([[0], *found])
  starts[1:] += 1
  lengths = np.diff(starts, append=len(source.symbols) + 1)
  # Behind a last <eos> there is no line.
  last = len(starts) - (starts[-1] == len(source.symbols))
  return starts[:last], lengths[:last]


def evaluation_windows(
  source: Source, batch_size: int, window: int, count: int
) -> Iterator[Windows]:
  """A whole text, once: B contiguous lanes, window after window, the carry handed on.

  Each token is a target once, but for the first one, that nothing comes before, and the last
  (N − 1) mod B. What is read beyond the lanes' end has mask False.

  Args:
    source: N tokens, from `make_source`.
    batch_size: B.
    window: k.
    count: n, windows that are read together.
  Yields:
    n windows, reset at the first step of all.
  Raises:
    ValueError, TypeError: naming the argument, the rule and what came.
  """
  _check_sizes(batch_size, window, count)
  size = len(source.symbols)
  if size <= batch_size:
    raise ValueError(f"batch_size must be below the {size} tokens of the text, got {batch_size}.")
  return _whole(source, batch_size, (size - 1) // batch_size, window * count)


def _whole(source: Source, batch_size: int, lane: int, together: int) -> Iterator[Windows]:
  for start in range(0, lane, together):
    steps = np.arange(start, start + together)[:, None]
    places = np.minimum(steps, lane - 1) + lane * np.arange(batch_size)
    valid = np.broadcast_to(steps < lane, places.shape)
    yield _windows(source, places, np.broadcast_to(steps == 0, places.shape))._replace(mask=valid)


def _windows(source: Source, places: np.ndarray, resets: np.ndarray) -> Windows:
  """The tokens at some places [n·k, B], and those that follow them."""
  tokens, targets = (source.encode(source.symbols[at]) for at in (places, places + 1))
  return Windows(tokens, targets, np.ones(places.shape, bool), resets.reshape(places.shape))


def _window_starts(shape: tuple[int, ...]) -> np.ndarray:
  """True at the first step of every window: bool [n, k, B]."""
  resets = np.zeros(shape, bool)
  resets[:, 0] = True
  return resets


def _random(seed: int, number: int) -> np.random.Generator:
  return np.random.default_rng((seed, number))


def _check_sizes(batch_size: int, window: int, count: int) -> None:
  checks.integer("batch_size", batch_size)
  checks.integer("window", window)
  checks.integer("count", count)
