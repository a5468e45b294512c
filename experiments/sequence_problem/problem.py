"""The task and the network of a sequence problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax

from experiments.cli import command_line
from experiments.networks import layers as networks
from experiments.networks.layers import Layers
from experiments.networks.matched_width import task_input_size
from experiments.sequence_problem.settings import ORDERS, Settings
from rnn_jax.modules import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder, Model
from rnn_jax.tasks import Task, digits, sequential_digits, spelling, tagging
from rnn_jax.tasks.tagging import load_tagged
from rnn_jax.text import Corpus, Vocabulary, load_corpus

_MAX_TEST_SIZE = 2000  # largest number of test examples


class Problem(NamedTuple):
  """The task and the network that a problem's settings describe.

  Attributes:
    train: the task to train on.
    test: the task to evaluate on; a batch holds all test examples, but at most `_MAX_TEST_SIZE`.
    model: the network.
    vocabulary: for many_to_many, the vocabulary of the text; None for the other problems.
    layers: settings of the network's layers, with the hidden size resolved from `match_params`.
  """

  train: Task
  test: Task
  model: Model
  vocabulary: Vocabulary | None
  layers: Layers


def make_problem(settings: Settings) -> Problem:
  """Builds the task and the network that the settings describe.

  Raises:
    ValueError: if a setting is invalid, or a package is missing; the message names the flag, the
      rule and the value, or the package to install.
  """
  with command_line.errors_name_flags():
    corpus = vocabulary = None
    if settings.problem == "many_to_many":
      corpus = load_corpus(settings.corpus)
      vocabulary = load_tagged(corpus).vocabulary
    train = _make_task(settings, corpus, "train", settings.batch_size)
    test_size = _MAX_TEST_SIZE
    if settings.problem != "encoder_decoder":
      test_part = _make_task(settings, corpus, "test", None)
      test_size = min(len(jax.tree.leaves(test_part.data)[0]), _MAX_TEST_SIZE)
    test = _make_task(settings, corpus, "test", test_size)
  settings = _with_matched_width(settings, task_input_size(train))
  return Problem(train, test, make_model(settings, train), vocabulary, settings.layers)


def _make_task(
  settings: Settings,
  corpus: Corpus | None,
  part: Literal["train", "test"],
  batch_size: int | None,
) -> Task:
  """Builds the task of one part of the data; with batch_size=None, a batch is the whole part."""
  length = settings.length
  makers: dict[str, Callable[[], Task]] = {
    "one_to_one": lambda: digits(batch_size, part),
    "one_to_many": lambda: spelling(batch_size, part),
    "many_to_one": lambda: sequential_digits(length, batch_size, part, pooled=settings.pooled),
    "many_to_many": lambda: tagging(length, batch_size, corpus, part),
    "encoder_decoder": lambda: ORDERS[settings.order](length, batch_size),
  }
  return makers[settings.problem]()


def _with_matched_width(settings: Settings, input_size: int) -> Settings:
  """Returns the settings with `hidden_size` chosen to match the parameter budget `match_params`.

  Settings without `match_params` are returned unchanged.
  """
  if settings.layers.match_params is None:
    return settings
  ways = merged = 1
  if settings.problem == "encoder_decoder":
    ways = 2  # the budget covers the encoder's and the decoder's layers
  if settings.is_bidirectional:
    ways, merged = 2, 2 if settings.bidirectional == "concat" else 1
  layers = networks.with_matched_width(settings.layers, input_size, ways=ways, merged=merged)
  networks.check(layers, "sequence_length", settings.length, settings.batch_size)
  return dataclasses.replace(settings, layers=layers)


def make_model(settings: Settings, task: Task) -> Model:
  """Builds the network for a problem: a DeepRNN, a bidirectional network or a decoder."""
  cells, options = networks.make_cells(settings.layers), networks.module_options(settings.layers)
  sizes = task.output_size, task.vocabulary_size
  if settings.problem == "one_to_many":
    return ConditionedDecoder(DeepRNN(cells, *sizes, **options))
  if settings.problem == "encoder_decoder":
    encoder = DeepRNN(cells, None, task.vocabulary_size, **{**options, "hidden_sizes": ()})
    return EncoderDecoder(encoder, DeepRNN(cells, *sizes, **options))
  options["pooled"] = settings.pooled
  if settings.is_bidirectional:
    return BidirectionalRNN(cells, *sizes, merge=settings.bidirectional, **options)
  return DeepRNN(cells, *sizes, learned_carry=settings.learned_carry, **options)
