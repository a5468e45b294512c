"""The flags for a sequence problem's `Settings`, and their conversion to settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from experiments.cli import paths, plugins
from experiments.cli.flag_table import Flag, grouped
from experiments.cli.parsers import choice, integer, positive
from experiments.networks import layers as networks
from experiments.sequence_problem.settings import LENGTHS, ONE_WAY, ORDERS, PROBLEMS, Settings
from rnn_jax.modules.recurrent import MERGES
from rnn_jax.text import STANDARD_LIBRARY

# The flags that apply only to some problems, with the names of these problems.
_APPLIES_TO = {
  "bidirectional": ("many_to_one", "many_to_many"),
  "corpus": ("many_to_many",),
  "learned_carry": ("one_to_one", "many_to_one", "many_to_many"),
  "order": ("encoder_decoder",),
  "pooled": ("many_to_one",),
  "sequence_length": tuple(LENGTHS),
  "truncation": ("one_to_many", "many_to_one", "many_to_many", "encoder_decoder"),
}


def _listed(names: tuple[str, ...]) -> str:
  """Formats a list of names as `a`, `a and b` or `a, b and c`."""
  return " and ".join((", ".join(names[:-1]), names[-1])) if names[1:] else names[0]


def _problems(name: str) -> str:
  """Returns a sentence for a flag's help text: the problems that the flag applies to."""
  return f" Only for {_listed(_APPLIES_TO[name])}."


_PROBLEM = (
  Flag(
    "problem",
    "many_to_one",
    choice("problem", PROBLEMS),
    f"Problem to learn: {'; '.join(f'{name}, {note}' for name, note in PROBLEMS.items())}.",
  ),
  Flag(
    "corpus",
    STANDARD_LIBRARY,
    str,
    f"Python source to tag: path of a file, or {STANDARD_LIBRARY} for a sample of Python's "
    "standard library." + _problems("corpus"),
  ),
  Flag(
    "order",
    "reverse",
    choice("order", ORDERS),
    "Order in which the decoder generates the symbols: reverse, or sort, smallest first."
    + _problems("order"),
  ),
  Flag(
    "sequence_length",
    "auto",
    integer("sequence_length", none="auto"),
    "Length of the longest sequence, in time steps. A number, or auto: "
    f"{', '.join(f'{length} for {name}' for name, length in LENGTHS.items())}."
    + _problems("sequence_length"),
  ),
)

_NETWORK = (
  Flag(
    "bidirectional",
    ONE_WAY,
    choice("bidirectional", (ONE_WAY, *MERGES)),
    "Read sequences in both directions, and merge the outputs of the two by concat or sum; none to "
    "read forward only." + _problems("bidirectional"),
  ),
  Flag(
    "pooled",
    "false",
    None,
    "Classify the mean over all time steps instead of the last one." + _problems("pooled"),
  ),
  Flag(
    "learned_carry",
    "false",
    None,
    "Learn the initial carry of each layer." + _problems("learned_carry"),
  ),
  *networks.TABLE,
)

_TRAINING = (
  Flag(
    "truncation",
    "full",
    integer("truncation", none="full"),
    "Time steps after which backpropagation through time is cut, or full."
    + _problems("truncation"),
  ),
  Flag("batch_size", "32", integer("batch_size"), "Number of sequences in a batch."),
  Flag("steps", "1000", integer("steps"), "Number of updates."),
  Flag("learning_rate", "0.002", positive("learning_rate"), "Learning rate of Adam."),
  Flag(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Largest norm of the gradient, or none for no clipping. A larger gradient is scaled down to "
    "it.",
  ),
  Flag("seed", "0", integer("seed", minimum=0), "Random seed of params, batches and masks."),
)

TABLE = (
  *grouped("Problem", _PROBLEM),
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
  for name, problems in _APPLIES_TO.items():
    if values[name] != flags.FLAGS[name].default and values["problem"] not in problems:
      raise ValueError(
        f"--{name} applies to {_listed(problems)} only, got {values[name]} with "
        f"--problem={values['problem']}."
      )
  if values["corpus"] != STANDARD_LIBRARY:
    values["corpus"] = str(paths.absolute_path("--corpus", values["corpus"]))
  settings = Settings(**values, layers=networks.from_flags())
  if settings.is_bidirectional:
    _check_bidirectional(settings)
  if settings.layers.match_params is None:
    networks.check(settings.layers, "sequence_length", settings.length, settings.batch_size)
  return settings


def _check_bidirectional(settings: Settings) -> None:
  both = f"--bidirectional={settings.bidirectional}"
  if settings.truncation is not None:
    raise ValueError(
      f"--truncation must be full with {both}, where every output depends on the whole sequence, "
      f"got {settings.truncation}."
    )
  if settings.learned_carry:
    raise ValueError(
      f"--learned_carry must be false with {both}, where both directions start from zeros."
    )
  layers = settings.layers
  if settings.bidirectional == "concat" and layers.residual and layers.depth > 1:
    raise ValueError(
      f"--residual must be false with {both}, where a layer reads twice the size that each "
      "direction returns. Use --bidirectional=sum, which keeps the size."
    )
