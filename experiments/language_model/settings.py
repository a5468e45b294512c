"""What a language model is trained on, and how: the flags, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
from absl import flags

from experiments.cli import command_line, parsers
from experiments.networks import layers as networks
from experiments.networks.layers import Layers
from rnn_jax.modules import DeepRNN
from rnn_jax.text import (
  READINGS,
  SPLITS,
  STANDARD_LIBRARY,
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
from rnn_jax.training import OPTIMIZERS, make_optimizer

CHARACTERS = "char"
LEVELS = (CHARACTERS, *SPLITS)
WORD_FLAGS = ("min_count", "max_vocabulary")
LINES = "lines"  # the reading that knows nothing of the line before
SCHEDULES = ("constant", "cosine")
CALL = 10  # windows in a call of the compiled program: what steps come in


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that decides what a model becomes.

  Attributes:
    corpus: `stdlib`, or the path of the text.
    characters: bytes of the text that are used, from its beginning; None for all.
    level: `char`, or how the text is cut into words.
    min_count: words that occur less often are `<unk>`.
    max_vocabulary: largest vocabulary of words; None for any.
    validation_share: share of the text, at its end, that is held out.
    embedding_size: width of the embedding; None for one-hot tokens.
    tied: the readout's kernel is the embedding's.
    reading: how batches are read from the text.
    window: steps of a window, through which the gradient goes.
    batch_size: windows side by side.
    steps: updates.
    optimizer: its name.
    learning_rate: the highest one.
    schedule: what becomes of the learning rate.
    warmup: updates in which it grows from 0 to its highest.
    clip_norm: largest norm of the gradient; None for any.
    evaluate_every: updates from one evaluation to the next.
    seed: of params, batches and masks.
    layers: of the network.
  """

  corpus: str
  characters: int | None
  level: str
  min_count: int
  max_vocabulary: int | None
  validation_share: float
  embedding_size: int | None
  tied: bool
  reading: str
  window: int
  batch_size: int
  steps: int
  optimizer: str
  learning_rate: float
  schedule: str
  warmup: int
  clip_norm: float | None
  evaluate_every: int
  seed: int
  layers: Layers


class Texts(NamedTuple):
  """What a model is trained on, and what it is judged by.

  Attributes:
    corpus: all of the text that is used.
    vocabulary: of its tokens.
    train: what is learned.
    held_out: what the model is judged by; None for nothing.
    read: `i -> Windows`, the i-th `CALL` windows of what is learned.
  """

  corpus: Corpus
  vocabulary: Vocabulary | WordVocabulary
  train: Source
  held_out: Source | None
  read: Callable[[int], Windows]


def define() -> None:
  """The flags of `Settings`."""
  single, integer, positive = parsers.define, parsers.integer, parsers.positive
  single(
    "corpus",
    STANDARD_LIBRARY,
    str,
    f"Text: path of a file, or {STANDARD_LIBRARY} for the source of Python's standard library.",
  )
  single(
    "characters",
    "all",
    integer("characters", none="all"),
    "How much of the text to use, in bytes from its beginning, or all.",
  )
  single(
    "level",
    CHARACTERS,
    parsers.choice("level", LEVELS),
    "What a token is: char, a byte; word, a run of letters and digits, or one other character; "
    "whitespace, what stands between white space, for text that was tokenised before.",
  )
  single(
    "min_count",
    "2",
    integer("min_count"),
    "Words that occur less often in the training part become <unk>; with 1 none do, and nothing is "
    "learned of <unk>.",
  )
  single(
    "max_vocabulary",
    "none",
    integer("max_vocabulary", minimum=3, none="none"),
    "Largest vocabulary of words, <unk> and <eos> counted, or none: rarer words become <unk>.",
  )
  single(
    "validation_share",
    "0.05",
    parsers.number("validation_share", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "Share of the text, at its end, that is held out; the best checkpoint is the one with the "
    "lowest loss there. 0 for none: then it is the lowest training loss.",
  )
  single(
    "embedding_size",
    "none",
    integer("embedding_size", none="none"),
    "Width of a learned embedding of the tokens, or none: one-hot.",
  )
  flags.DEFINE_boolean("tied", False, "The readout's kernel is the embedding's, transposed.")
  networks.define()
  single(
    "reading",
    "stream",
    parsers.choice("reading", READINGS),
    "How batches are read: stream, contiguous lanes, the carry handed on from window to window; "
    "windows, from anywhere, each with a new carry; lines, whole lines up to <eos>.",
  )
  single(
    "window",
    "64",
    integer("window"),
    "Time steps of a window, in tokens; the gradient goes no further, longer lines are left out.",
  )
  single("batch_size", "32", integer("batch_size"), "Windows side by side.")
  single("steps", "1000", _multiple("steps"), f"Updates of the params; a multiple of {CALL}.")
  single(
    "optimizer",
    "adam",
    parsers.choice("optimizer", OPTIMIZERS),
    f"Optimizer: {', '.join(OPTIMIZERS)}.",
  )
  single("learning_rate", "0.002", positive("learning_rate"), "Highest learning rate.")
  single(
    "schedule",
    "constant",
    parsers.choice("schedule", SCHEDULES),
    "Learning rate after the warm-up: constant, or cosine, down to 0 at the last update.",
  )
  single(
    "warmup",
    "0",
    integer("warmup", minimum=0),
    "Updates in which the learning rate grows from 0.",
  )
  single(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Largest norm of the gradient, or none for no clipping.",
  )
  single(
    "evaluate_every",
    "200",
    _multiple("evaluate_every"),
    f"Updates from one evaluation, and maybe checkpoint, to the next; a multiple of {CALL}.",
  )
  single("seed", "0", integer("seed", minimum=0), "Seed of params, batches and masks; of a sample.")
  flags.adopt_module_key_flags(parsers)  # so that --help shows them
  flags.adopt_module_key_flags(networks)


def _multiple(name: str) -> parsers.Parse:
  parse = parsers.integer(name)

  def rounded(text: str) -> int:
    value = parse(text)
    if value % CALL:
      raise ValueError(f"{name} must be a multiple of {CALL}, got {text}.")
    return value

  return rounded


def given() -> Settings:
  """What the flags say.

  Raises:
    ValueError: naming the flag, the rule and what came.
  """
  values: dict[str, Any] = {
    f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Settings) if f.name != "layers"
  }
  if values["corpus"] != STANDARD_LIBRARY:
    values["corpus"] = str(command_line.path("corpus", values["corpus"]).absolute())
  settings = Settings(**values, layers=networks.given())
  if settings.warmup >= settings.steps:
    raise ValueError(f"--warmup must be below --steps={settings.steps}, got {settings.warmup}.")
  if settings.level == CHARACTERS:
    for name in WORD_FLAGS:
      if flags.FLAGS[name].present:
        raise ValueError(f"--{name} is for words, got --level={CHARACTERS}.")
  if settings.layers.match_params is None:
    _check_width(settings)
  return settings


def with_matched_width(settings: Settings, vocabulary_size: int) -> Settings:
  """The settings, with a network as wide as `match_params` makes it, where that is asked for.

  Raises:
    ValueError: naming the flag of what does not go with the width, or the cell that refuses it.
  """
  if settings.layers.match_params is None:
    return settings
  input_size = settings.embedding_size or vocabulary_size
  layers = networks.with_matched_width(settings.layers, input_size)
  settings = dataclasses.replace(settings, layers=layers)
  _check_width(settings)
  return settings


def _check_width(settings: Settings) -> None:
  networks.check(settings.layers, "window", settings.window, settings.batch_size)
  if settings.tied:
    _check_tied(settings)


def _check_tied(settings: Settings) -> None:
  top = (settings.layers.width, *settings.layers.hidden_sizes)[-1]
  if settings.embedding_size != top:
    raise ValueError(
      f"--tied needs an --embedding_size of {top}, as wide as what the readout reads, "
      f"got {settings.embedding_size or 'none'}."
    )


def read_texts(settings: Settings, vocabulary: Vocabulary | WordVocabulary | None = None) -> Texts:
  """The text in two parts, and its vocabulary.

  Args:
    settings: which text, and how it is cut.
    vocabulary: of a model that was trained before; made from the text if None. That of words is
      the training part's alone, so that the words of the other may be unknown.
  Raises:
    ValueError: naming what is wrong with the text.
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
  if settings.validation_share > 0 and size <= settings.batch_size:
    raise ValueError(
      f"validation_share must hold out more than batch_size = {settings.batch_size} tokens, "
      f"got {size} of {len(train.symbols) + size}."
    )
  about = settings.reading, train, settings.batch_size, settings.window, CALL, settings.seed
  judged_by = held_out if settings.validation_share > 0 else None
  return Texts(corpus, vocabulary, train, judged_by, make_reader(*about))


def make_model(settings: Settings, vocabulary_size: int) -> DeepRNN:
  """The network: logits of the next token."""
  return DeepRNN(
    networks.make_cells(settings.layers),
    vocabulary_size,
    vocabulary_size,
    settings.embedding_size,
    tied=settings.tied,
    **networks.options(settings.layers),
  )


def optimizer(settings: Settings) -> optax.GradientTransformation:
  """Clipping, the optimiser, and the learning rate's schedule."""
  peak, steps, warmup = settings.learning_rate, settings.steps, settings.warmup
  if settings.schedule == "cosine":
    rate: Any = optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)
  else:
    rate = optax.warmup_constant_schedule(0.0, peak, warmup) if warmup else peak
  return make_optimizer(settings.optimizer, rate, settings.clip_norm)


def baseline(source: Source, vocabulary_size: int) -> float:
  """Loss in nats of who knows only how often each token occurs in a text."""
  parts = (histogram(source.encode(part), vocabulary_size) for _, part in blocks(source.symbols))
  return entropy(np.sum(list(parts), axis=0))
