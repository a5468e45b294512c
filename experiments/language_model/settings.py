"""A language model's settings, and the network and the optimizer that they describe."""

from __future__ import annotations

import dataclasses

import optax

from experiments.networks import layers as networks
from experiments.networks.layers import Layers
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.text import SPLITS

CHARACTERS = "char"
LEVELS = (CHARACTERS, *SPLITS)
WORD_FLAGS = ("min_count", "max_vocabulary")
LINES = "lines"  # the reading in which every line starts from a new carry
SCHEDULES = ("constant", "cosine")
CHUNK = 10  # updates per call of the compiled program


@dataclasses.dataclass(frozen=True)
class Settings:
  """A language model's settings: everything that determines its trained params.

  The names of the fields are the names of the flags, and the keys in model.json.

  Attributes:
    corpus: `stdlib`, or the path of a text file.
    characters: number of bytes to use, from the beginning of the text; None for all.
    level: `char` for characters as tokens, or the name of the rule that splits the text into words.
    min_count: words that occur less often than this are replaced by `<unk>`.
    max_vocabulary: largest size of a vocabulary of words; None for no limit.
    validation_share: share of the text, at its end, that is held out.
    embedding_size: size of the tokens' embedding; None for one-hot tokens.
    tied: whether the readout shares its kernel with the embedding.
    reading: how batches are read from the text: `stream`, `windows` or `lines`, as described in
      `rnn_jax.text.make_reader`.
    window: time steps of a window; gradients do not reach further back.
    batch_size: number of windows in a batch.
    steps: number of updates.
    optimizer: name of the optimizer.
    learning_rate: peak learning rate.
    schedule: the learning rate's schedule after the warm-up, `constant` or `cosine`.
    warmup: number of updates over which the learning rate rises from 0 to its peak.
    clip_norm: largest norm of the gradient; None for no clipping.
    evaluate_every: number of updates between evaluations.
    seed: random seed of params, batches, and dropout and zoneout masks.
    layers: the recurrent and feed-forward layers.
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


def make_model(settings: Settings, vocabulary_size: int) -> DeepRNN:
  """Builds the network that the settings describe; its outputs are the logits of the next token."""
  return DeepRNN(
    networks.make_cells(settings.layers),
    vocabulary_size,
    vocabulary_size,
    settings.embedding_size,
    tied=settings.tied,
    **networks.module_options(settings.layers),
  )


def optimizer(settings: Settings) -> optax.GradientTransformation:
  """Builds the optimizer of the settings, including clipping and the learning-rate schedule."""
  peak, steps, warmup = settings.learning_rate, settings.steps, settings.warmup
  rate: float | optax.Schedule = peak
  if settings.schedule == "cosine":
    rate = optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)
  elif warmup:
    rate = optax.warmup_constant_schedule(0.0, peak, warmup)
  return make_optimizer(settings.optimizer, rate, settings.clip_norm)
