"""The flags for a language model's `Settings`, and their conversion to settings and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from experiments.cli import paths, plugins
from experiments.cli.flag_table import Flag, grouped
from experiments.cli.parsers import Parse, choice, integer, number, positive
from experiments.language_model.settings import (
  CHARACTERS,
  CHUNK,
  LEVELS,
  SCHEDULES,
  WORD_FLAGS,
  Settings,
)
from experiments.networks import cell_options
from experiments.networks import layers as networks
from rnn_jax.optimizers import OPTIMIZERS
from rnn_jax.text import READINGS, STANDARD_LIBRARY


def _multiple(name: str) -> Parse:
  """Returns a parser for the flag `name`, whose value must be a positive multiple of `CHUNK`."""
  parse = integer(name)

  def checked(text: str) -> int:
    value = parse(text)
    if value % CHUNK:
      raise ValueError(f"{name} must be a multiple of {CHUNK}, got {text}.")
    return value

  return checked


_TEXT = (
  Flag(
    "corpus",
    STANDARD_LIBRARY,
    str,
    f"Text to train on: path of a file, or {STANDARD_LIBRARY} for the source of Python's standard "
    "library.",
  ),
  Flag(
    "characters",
    "all",
    integer("characters", none="all"),
    "Number of bytes to use, from the beginning of the text, or all.",
  ),
  Flag(
    "level",
    CHARACTERS,
    choice("level", LEVELS),
    "Kind of token: char, one byte; word, a run of letters and digits, or any other single "
    "character; whitespace, everything between white space, for text that is already tokenized.",
  ),
  Flag(
    "min_count",
    "2",
    integer("min_count"),
    "Words that occur less often than this in the training text become <unk>. With 1 no word does, "
    "and the model learns nothing about <unk>.",
  ),
  Flag(
    "max_vocabulary",
    "none",
    integer("max_vocabulary", minimum=3, none="none"),
    "Largest vocabulary of words, including <unk> and <eos>, or none for no limit. "
    "The rarest words become <unk>.",
  ),
  Flag(
    "validation_share",
    "0.05",
    number("validation_share", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "Share of the text, at its end, to hold out. The params with the lowest held-out loss are "
    "kept; with 0, those with the lowest loss on the training text. Evaluation reads the text as "
    "one stream, token by token.",
  ),
)

_NETWORK = (
  Flag(
    "embedding_size",
    "none",
    integer("embedding_size", none="none"),
    "Size of a learned embedding of the tokens, or none for one-hot tokens.",
  ),
  Flag("tied", "false", None, "Use the transposed embedding as the kernel of the readout."),
  *networks.TABLE,
)

_TRAINING = (
  Flag(
    "reading",
    "stream",
    choice("reading", READINGS),
    "How batches are read: stream, contiguous lanes of text, with the carry passed from window to "
    "window; windows, from random positions, each with a new carry; lines, whole lines up to "
    "<eos>, each with a new carry.",
  ),
  Flag(
    "window",
    "64",
    integer("window"),
    "Time steps (tokens) of a window. Gradients do not reach further back. With --reading=lines, "
    "longer lines are skipped.",
  ),
  Flag("batch_size", "32", integer("batch_size"), "Number of windows in a batch."),
  Flag(
    "steps",
    "1000",
    _multiple("steps"),
    f"Number of updates, a multiple of {CHUNK}. To train a finished model further, pass "
    "a larger number and leave all other settings unchanged.",
  ),
  Flag(
    "optimizer", "adam", choice("optimizer", OPTIMIZERS), f"Optimizer: {', '.join(OPTIMIZERS)}."
  ),
  Flag("learning_rate", "0.002", positive("learning_rate"), "Peak learning rate."),
  Flag(
    "schedule",
    "constant",
    choice("schedule", SCHEDULES),
    "Learning rate after the warm-up: constant, or cosine, which decays to 0 at the last update.",
  ),
  Flag(
    "warmup",
    "0",
    integer("warmup", minimum=0),
    "Number of updates over which the learning rate rises linearly from 0.",
  ),
  Flag(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Largest norm of the gradient, or none for no clipping. A larger gradient is scaled down to "
    "it.",
  ),
  Flag(
    "evaluate_every",
    "200",
    _multiple("evaluate_every"),
    f"Updates between evaluations, a multiple of {CHUNK}. The params are saved whenever "
    "the loss improves.",
  ),
  Flag(
    "seed",
    "0",
    integer("seed", minimum=0),
    "Random seed: of params, batches and masks in training, of the tokens with --sample.",
  ),
)

TABLE = (
  *grouped("Text", _TEXT),
  *grouped("Network", _NETWORK),
  *grouped("Training", _TRAINING),
  *plugins.TABLE,
)


def from_flags() -> Settings:
  """Returns the settings that the flags describe.

  Raises:
    ValueError: if a flag's value is invalid; the message names the flag, the rule and the value.
  """
  names = [field.name for field in dataclasses.fields(Settings) if field.name != "layers"]
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
  if values["corpus"] != STANDARD_LIBRARY:
    values["corpus"] = paths.recorded_path("--corpus", values["corpus"])
  settings = Settings(**values, layers=networks.from_flags())
  if settings.warmup >= settings.steps:
    raise ValueError(f"--warmup must be below --steps={settings.steps}, got {settings.warmup}.")
  if settings.level == CHARACTERS:
    for name in WORD_FLAGS:
      if flags.FLAGS[name].present:
        raise ValueError(f"--{name} applies to words only, got --level={CHARACTERS}.")
  if settings.layers.match_params is None:
    _check_width(settings)
  return settings


def with_matched_width(settings: Settings, vocabulary_size: int) -> Settings:
  """Returns the settings with the hidden size that matches the parameter budget `match_params`.

  Settings without `match_params` are returned unchanged.

  Raises:
    ValueError: if this hidden size conflicts with another flag, or the cell rejects it; the message
      names the flag or the cell.
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
  top = (settings.layers.width, *settings.layers.hidden_sizes)[-1]
  if settings.tied and settings.embedding_size != top:
    raise ValueError(
      f"--tied needs --embedding_size={top}, the size of what the readout reads, got "
      f"{settings.embedding_size or 'none'}."
    )


def as_flagfile(settings: Settings) -> str:
  """Returns the contents of a flagfile that describes these settings: one flag per line."""
  values = dataclasses.asdict(settings)
  values |= values.pop("layers")
  del values["match_params"]  # `hidden_size` already has the resolved value
  cell = cell_options.as_flags(values.pop("cell"), values.pop("options"))
  if settings.level == CHARACTERS:
    values = {name: value for name, value in values.items() if name not in WORD_FLAGS}
  lines = [f"--{name}={_value_text(name, value)}" for name, value in values.items()]
  modules = plugins.given()
  if modules:
    lines.insert(0, f"--import={','.join(modules)}")
  return "".join(line + "\n" for line in [*cell.split(" "), *lines])


def _value_text(name: str, value: object) -> str:
  if value is None or value == ():
    return "all" if name == "characters" else "none"
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
