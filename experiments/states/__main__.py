"""Writes a page to look into a language model: what its units hold while it reads a text.

  python -m experiments.states --model=results/characters
  python -m experiments.states --model=results/characters --text=FILE --output=states.html

Every character is coloured by the value of a unit or gate, to be chosen on the page; a click on one
shows which characters before it the loss there depends on. Units that track something, such as
quotes or indentation, are searched for, and ranked on text that had no part in the search.

References:
  Karpathy, Johnson and Fei-Fei, 2015, https://arxiv.org/abs/1506.02078
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.cli import command_line, parsers
from experiments.language_model import trained_model
from experiments.language_model.settings import CHARACTERS
from experiments.language_model.texts import read_texts
from experiments.language_model.trained_model import TrainedModel
from experiments.networks.cell_options import options_text
from experiments.runtime import backend, files
from experiments.states.page import page
from experiments.states.text_features import FEATURES, text_features
from experiments.states.text_pieces import text_pieces
from experiments.states.unit_search import Found, search
from experiments.states.unit_values import read
from rnn_jax.gradient_flow import saliency
from rnn_jax.losses import bits

SEARCHED = 20_000  # tokens that the search reads, where there are as many
_TOP = 5  # units for each feature
_LONGEST = 64  # bytes of a word, in what is read of a file
_PLAIN_WIDTH = 100  # columns, where there is no terminal


def define_flags() -> None:
  """All flags of this program."""
  integer = parsers.integer
  flags.DEFINE_string("model", None, "Folder of a trained model, from experiments.language_model.")
  flags.DEFINE_string("text", None, "Text to read; the part that the model was not trained on.")
  parsers.define(
    "characters", "2000", integer("characters"), "How much of the text to show, in tokens."
  )
  parsers.define(
    "reach", "100", integer("reach"), "Steps back in time that each loss is traced to its inputs."
  )
  flags.DEFINE_string("output", "states.html", "File for the page.")


def main(arguments: list[str]) -> None:
  """Reads the text, searches, prints what was found, and writes the page."""
  values = flags.FLAGS
  with command_line.errors_in_one_line("--model or --output could not be read or written"):
    command_line.check_no_arguments(arguments)
    folder = command_line.path("model", values.model or "")
    if not values.model or not (folder / "model.json").is_file():
      raise ValueError(
        f"--model must be the folder of a trained model, got {str(values.model or 'none')!r}."
      )
    output = command_line.path("output", values.output)
    if not values.output or output.is_dir():
      raise ValueError(f"--output must name a file, got '{values.output}'.")
    trained = trained_model.load(folder)
    count = max(values.characters, SEARCHED) + 1
    if values.text is None:
      name, tokens = _held_out(trained, count)
    else:
      name, tokens = values.text, _of_file(trained, command_line.path("text", values.text), count)
    html, found = look(trained, name, tokens, values.characters, values.reach)
    print_ranking(found, Console())
    files.write_text(output, html)
  print(f"The page is {output}, {len(html.encode()) / 1e6:.1f} MB; open it in a browser.")


def look(
  trained: TrainedModel, name: str, tokens: np.ndarray, shown: int, reach: int
) -> tuple[str, list[Found]]:
  """Reads a text, and looks at what the model makes of it.

  Args:
    trained: the model.
    name: of the text.
    tokens: [N + 1], the last is only predicted; the search reads all of them.
    shown: tokens on the page, at most.
    reach: steps back in time that each loss is traced.
  Returns:
    (the page, as HTML; the units that were found).
  Raises:
    ValueError: the text is too short, or the model's outputs on it are not finite.
  """
  if len(tokens) < 2:
    raise ValueError(f"--text must hold at least 2 tokens, got {len(tokens)} in {name}.")
  pieces = text_pieces(trained.vocabulary, tokens[:-1])
  reading = read(trained.model, trained.variables, tokens)
  if not np.isfinite(reading.losses).all():
    raise ValueError(f"--model must have finite losses on {name}, got NaN or infinity.")
  features = text_features(pieces)
  found = search(features, {q.name: q.values for q in reading.quantities}, _TOP)
  shown = min(shown, len(pieces))
  reach = min(reach, shown)
  traced = jax.jit(
    lambda variables, tokens: saliency(trained.model, variables, tokens, reach=reach)
  )
  norms = traced(trained.variables, jnp.asarray(tokens[: shown + 1], jnp.int32))
  piece = "character" if trained.settings.level == CHARACTERS else "word"
  losses = reading.losses[:shown]
  html = page(
    "Inside a language model",
    _about(trained, piece, name, losses),
    piece,
    pieces[:shown],
    [q._replace(values=q.values[:shown]) for q in reading.quantities],
    losses,
    np.asarray(norms),
    found,
    _method(piece, len(pieces), found),
  )
  return html, found


def print_ranking(found: Sequence[Found], console: Console) -> None:
  """The units that were found, as a table."""
  if not console.is_terminal:
    console = Console(width=_PLAIN_WIDTH, file=console.file)
  table = Table(box=None, pad_edge=False)
  for column in ("feature of the text", "unit", "held-out r", "first half r"):
    table.add_column(column, justify="right" if column.endswith(" r") else "left")
  for f in found:
    unit = f"{f.quantity} {f.unit}"
    table.add_row(f.feature, unit, f"{f.held_out:.2f}", f"{f.selection:.2f}")
  console.print(table)


def _held_out(trained: TrainedModel, count: int) -> tuple[str, np.ndarray]:
  """(name, the first tokens) of the part of its text that the model was not trained on."""
  settings = trained.settings
  try:
    texts = read_texts(settings, trained.vocabulary)
    corpus: Any = trained.metadata["corpus"]
  except (ValueError, KeyError) as error:
    raise ValueError(f"--text must be given: the model's own is not to be had ({error})") from None
  if texts.corpus.sha256 != corpus["sha256"]:
    raise ValueError(f"--text must be given: {settings.corpus} is not what it was in training.")
  source = texts.held_out
  if source is None:
    raise ValueError("--text must be given: nothing was held out when the model was trained.")
  return f"the held-out part of {settings.corpus}", source.encode(source.symbols[:count])


def _of_file(trained: TrainedModel, path: Path, count: int) -> np.ndarray:
  """The first tokens of a file."""
  length = count * (1 if trained.settings.level == CHARACTERS else _LONGEST)
  try:
    with path.open("rb") as file:
      text = file.read(length)
  except OSError as error:
    raise ValueError(f"--text must be a readable file, got {path} ({error.strerror}).") from None
  try:
    return trained.vocabulary.encode(text)[:count]
  except ValueError as error:
    raise ValueError(f"--{error}") from None


def _about(trained: TrainedModel, piece: str, name: str, losses: np.ndarray) -> str:
  layers, count = trained.settings.layers, trained.vocabulary.size
  number = f"{layers.depth} layer{'s' if layers.depth > 1 else ''}"
  cell = f"{layers.cell} {options_text(layers.options)}".rstrip()
  loss = float(bits(jnp.mean(jnp.asarray(losses))))
  return (
    f"{number} of {layers.hidden_size} {cell} units, {count:,} different {piece}s, after "
    f"{trained.step:,} updates on {trained.settings.corpus}. Below are {len(losses):,} {piece}s "
    f"from {name}, which cost it {loss:.2f} bits each."
  )


def _method(piece: str, count: int, found: Sequence[Found]) -> str:
  half = count // 2
  text = (
    f"Pearson's r of a unit's value after each {piece} with what holds of the text there. Of all "
    f"units, the {_TOP} best on the first {half:,} {piece}s, ranked by their r on the "
    f"{count - half:,} after those, which had no part in the choice."
  )
  absent = [feature for feature in FEATURES if feature not in {f.feature for f in found}]
  return f"{text} Not in both parts: {', '.join(absent)}." if absent else text


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
