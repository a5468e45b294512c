"""A sequence problem as flags describe it: its task, its network, and what goes with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
from absl import flags

from experiments.cli import command_line, parsers
from experiments.networks import layers as networks
from experiments.networks.layers import Layers
from experiments.networks.matched_width import task_input_size
from rnn_jax.modules import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder
from rnn_jax.modules.recurrent import MERGES
from rnn_jax.tasks import Task, digits, reverse, sequential_digits, sort, spelling, tagging
from rnn_jax.tasks.tagging import load_tagged
from rnn_jax.text import STANDARD_LIBRARY, Corpus, Vocabulary, load_corpus
from rnn_jax.training import Model

PROBLEMS: Mapping[str, str] = {
  "one_to_one": "an image of a digit, as one vector, to its class",
  "one_to_many": "an image of a digit to its English name, letter by letter",
  "many_to_one": "an image of a digit, pixel by pixel, to its class",
  "many_to_many": "a line of Python, character by character, to the class of each one's token",
  "encoder_decoder": "a sequence of symbols to the same ones in another order",
}
ORDERS: Mapping[str, Callable[..., Task]] = {"reverse": reverse, "sort": sort}

_HELD_OUT = 2000  # examples to be judged by, at most
_ONE_WAY = "none"
_LENGTHS = {"many_to_one": 64, "many_to_many": 64, "encoder_decoder": 10}
# Flags that not all problems take.
_OF = {
  "bidirectional": ("many_to_one", "many_to_many"),
  "corpus": ("many_to_many",),
  "learned_carry": ("one_to_one", "many_to_one", "many_to_many"),
  "order": ("encoder_decoder",),
  "pooled": ("many_to_one",),
  "sequence_length": tuple(_LENGTHS),
  "truncation": ("one_to_many", "many_to_one", "many_to_many", "encoder_decoder"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that decides what comes out.

  Attributes:
    problem: its name.
    corpus: `stdlib`, or the path of a Python file.
    order: in which symbols are written again.
    sequence_length: longest sequence; None for the problem's own.
    bidirectional: `none`, or how both directions are merged.
    pooled: the class is read from the mean over all steps, not from the last.
    learned_carry: the initial carry is learned.
    truncation: steps after which the gradient is cut; None for full.
    batch_size: sequences in a batch.
    steps: updates.
    learning_rate: of Adam.
    clip_norm: largest norm of the gradient; None for any.
    seed: of params, batches and masks.
    layers: of the network; of encoder and decoder alike.
  """

  problem: str
  corpus: str
  order: str
  sequence_length: int | None
  bidirectional: str
  pooled: bool
  learned_carry: bool
  truncation: int | None
  batch_size: int
  steps: int
  learning_rate: float
  clip_norm: float | None
  seed: int
  layers: Layers


class Problem(NamedTuple):
  """What the settings come to.

  Attributes:
    train, test: what to learn, and what to be judged by.
    model: the network.
    vocabulary: of the characters of many_to_many; None elsewhere.
    layers: of the network, their width known.
  """

  train: Task
  test: Task
  model: Model
  vocabulary: Vocabulary | None
  layers: Layers


def define() -> None:
  """The flags of `Settings`."""
  single, integer, positive = parsers.define, parsers.integer, parsers.positive
  listed = "; ".join(f"{name}, {note}" for name, note in PROBLEMS.items())
  single("problem", "many_to_one", parsers.choice("problem", PROBLEMS), f"What to learn: {listed}.")
  networks.define()
  single(
    "bidirectional",
    _ONE_WAY,
    parsers.choice("bidirectional", (_ONE_WAY, *MERGES)),
    "Layers that read both ways: concat or sum, how the two are merged; none for forward alone.",
  )
  flags.DEFINE_boolean(
    "pooled", False, "Read the class from the mean over all steps, not from the last one."
  )
  flags.DEFINE_boolean("learned_carry", False, "Learn the initial carry of each layer.")
  single(
    "truncation",
    "full",
    integer("truncation", none="full"),
    "Time steps after which backpropagation through time is cut, or full.",
  )
  single(
    "corpus",
    STANDARD_LIBRARY,
    str,
    f"Python source for many_to_many: path of a file, or {STANDARD_LIBRARY} for a sample of "
    "Python's standard library.",
  )
  single(
    "order",
    "reverse",
    parsers.choice("order", ORDERS),
    "How encoder_decoder writes the symbols again: reverse, backwards; sort, smallest first.",
  )
  lengths = ", ".join(f"{length} for {name}" for name, length in _LENGTHS.items())
  single(
    "sequence_length",
    "auto",
    integer("sequence_length", none="auto"),
    f"Longest sequence, in steps. A number, or auto, the default: {lengths}.",
  )
  single("batch_size", "32", integer("batch_size"), "Sequences in a batch.")
  single("steps", "1000", integer("steps"), "Updates of the params.")
  single("learning_rate", "0.002", positive("learning_rate"), "Learning rate of Adam.")
  single(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Largest norm of the gradient, or none for no clipping.",
  )
  single("seed", "0", integer("seed", minimum=0), "Seed of params, batches and masks.")


def given() -> Settings:
  """What the flags say.

  Raises:
    ValueError: naming the flag, the rule and what came.
  """
  values: dict[str, Any] = {
    f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Settings) if f.name != "layers"
  }
  problem = values["problem"]
  for name, problems in _OF.items():
    if values[name] != flags.FLAGS[name].default and problem not in problems:
      raise ValueError(
        f"--{name} is for {' and '.join(problems)}, got {values[name]} with --problem={problem}."
      )
  if values["corpus"] != STANDARD_LIBRARY:
    values["corpus"] = str(command_line.path("corpus", values["corpus"]).absolute())
  settings = Settings(**values, layers=networks.from_flags())
  if settings.bidirectional != _ONE_WAY:
    _check_bidirectional(settings)
  if settings.layers.match_params is None:
    networks.check(settings.layers, "sequence_length", _length(settings), settings.batch_size)
  return settings


def _with_matched_width(settings: Settings, input_size: int) -> Settings:
  """The settings, with a network as wide as `match_params` makes it, where that is asked for."""
  if settings.layers.match_params is None:
    return settings
  ways = merged = 1
  if settings.problem == "encoder_decoder":
    ways = 2  # both read symbols, with params of their own
  if settings.bidirectional != _ONE_WAY:
    ways, merged = 2, 2 if settings.bidirectional == "concat" else 1
  layers = networks.with_matched_width(settings.layers, input_size, ways=ways, merged=merged)
  networks.check(layers, "sequence_length", _length(settings), settings.batch_size)
  return dataclasses.replace(settings, layers=layers)


def _check_bidirectional(settings: Settings) -> None:
  both = f"--bidirectional={settings.bidirectional}"
  if settings.truncation is not None:
    raise ValueError(
      f"--truncation must be full with {both}, whose outputs depend on all steps of a sequence, "
      f"got {settings.truncation}."
    )
  if settings.learned_carry:
    raise ValueError(f"--learned_carry must be false with {both}, which starts from zeros.")
  layers = settings.layers
  if settings.bidirectional == "concat" and layers.residual and layers.depth > 1:
    raise ValueError(
      f"--residual must be false with {both}, whose layers read twice the width that each "
      "direction writes; --bidirectional=sum keeps the width."
    )


def _length(settings: Settings) -> int:
  return settings.sequence_length or _LENGTHS.get(settings.problem, 1)


def make_problem(settings: Settings) -> Problem:
  """Task and network.

  Raises:
    ValueError: naming the flag, the rule and what came.
  """
  with command_line.errors_name_flags():
    corpus = vocabulary = None
    if settings.problem == "many_to_many":
      corpus = load_corpus(settings.corpus)
      vocabulary = load_tagged(corpus).vocabulary
    train = _make_task(settings, corpus, "train", settings.batch_size)
    if settings.problem == "encoder_decoder":
      test = _make_task(settings, corpus, "test", _HELD_OUT)
    else:
      whole = _make_task(settings, corpus, "test", None)
      count = len(jax.tree.leaves(whole.data)[0])
      test = _make_task(settings, corpus, "test", min(count, _HELD_OUT))
  settings = _with_matched_width(settings, task_input_size(train))
  return Problem(train, test, make_model(settings, train), vocabulary, settings.layers)


def _make_task(
  settings: Settings,
  corpus: Corpus | None,
  part: Literal["train", "test"],
  batch_size: int | None,
) -> Task:
  length = _length(settings)
  makers: dict[str, Callable[[], Task]] = {
    "one_to_one": lambda: digits(batch_size, part),
    "one_to_many": lambda: spelling(batch_size, part),
    "many_to_one": lambda: sequential_digits(length, batch_size, part, pooled=settings.pooled),
    "many_to_many": lambda: tagging(length, batch_size, corpus, part),
    "encoder_decoder": lambda: ORDERS[settings.order](length, batch_size),
  }
  return makers[settings.problem]()


def make_model(settings: Settings, task: Task) -> Model:
  """The network."""
  cells, options = networks.make_cells(settings.layers), networks.module_options(settings.layers)
  sizes = task.output_size, task.vocabulary_size
  if settings.problem == "one_to_many":
    return ConditionedDecoder(DeepRNN(cells, *sizes, **options))
  if settings.problem == "encoder_decoder":
    encoder = DeepRNN(cells, None, task.vocabulary_size, **{**options, "hidden_sizes": ()})
    return EncoderDecoder(encoder, DeepRNN(cells, *sizes, **options))
  options["pooled"] = settings.pooled
  if settings.bidirectional != _ONE_WAY:
    return BidirectionalRNN(cells, *sizes, merge=settings.bidirectional, **options)
  return DeepRNN(cells, *sizes, learned_carry=settings.learned_carry, **options)
