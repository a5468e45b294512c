"""Writes a page that shows what the units of a language model do while it reads a text.

  python -m experiments.states --model=results/characters
  python -m experiments.states --model=results/characters --text=FILE --output=states.html
  python -m experiments.states --model=results/characters --text=main.c --annotations=marked.json

Every character is colored by the value of a unit or gate, which is selected on the page. A click on
a character shows which earlier characters the loss on the next one depends on. A search finds units
that track a feature of the text, such as quotes or indentation, and ranks them on held-out text.
What the features are depends on the text's language; a file may mark further ones.

References:
  Karpathy, Johnson and Fei-Fei, 2015, https://arxiv.org/abs/1506.02078
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float, Integer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.cli import command_line, flag_table, paths, plugins
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import choice, integer
from experiments.language_model import trained_model
from experiments.language_model.report import token_name
from experiments.language_model.settings import CHARACTERS
from experiments.language_model.texts import read_texts
from experiments.language_model.trained_model import TrainedModel
from experiments.networks.cell_options import options_text
from experiments.runtime import backend, exits, files
from experiments.states.annotations import read_annotations
from experiments.states.languages import LANGUAGES
from experiments.states.page import page
from experiments.states.text_features import text_features
from experiments.states.text_pieces import text_pieces
from experiments.states.unit_search import Match, fewest_tokens, search
from experiments.states.unit_values import read
from rnn_jax.gradient_flow import saliency
from rnn_jax.losses import bits
from rnn_jax.text import STANDARD_LIBRARY

AUTO, NO_LANGUAGE = "auto", "none"
SEARCHED = 20_000  # largest number of tokens that the search reads
_TOP = 5  # number of units that the search returns for a feature
_BYTES_PER_WORD = 64  # bytes read from a file for each word, more than a word has on average
_PLAIN_WIDTH = 100  # width of the output in characters, if it is not a terminal


TABLE = (
  Flag("model", "", str, "Folder of a trained model, as experiments.language_model writes it."),
  Flag(
    "text",
    "",
    str,
    "Text file to read; by default the held-out part of the text that the model was trained on.",
  ),
  Flag(
    "language",
    AUTO,
    choice("language", [*LANGUAGES, AUTO, NO_LANGUAGE]),
    f"Language whose rules give the text's features: {', '.join(sorted(LANGUAGES))}, or none. "
    "auto: the language that the file's name ends in (.py, .c, .tex, .txt and such), else none.",
  ),
  Flag(
    "annotations",
    "",
    str,
    'JSON file of further features: {"NAME": [[START, END], ...], ...}, in tokens of the text.',
  ),
  Flag("characters", "2000", integer("characters"), "Number of tokens to show on the page."),
  Flag(
    "reach",
    "100",
    integer("reach"),
    "Number of time steps over which each loss is traced back to its inputs.",
  ),
  Flag("output", "states.html", str, "File name of the page."),
  *plugins.TABLE,
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Lets the model read the text, prints the units that track its features, and writes the page."""
  values = flags.FLAGS
  with command_line.errors_in_one_line("--model or --output could not be read or written"):
    command_line.check_no_arguments(arguments)
    folder = paths.path("--model", values.model)
    if not values.model or not (folder / trained_model.MODEL).is_file():
      raise ValueError(
        f"--model must be the folder of a trained model, got {values.model or 'none'!r}."
      )
    output = paths.path("--output", values.output)
    if not values.output or output.is_dir():
      raise ValueError(f"--output must name a file, got '{values.output}'.")
    files.check_replaceable(output)
    trained = trained_model.load(folder)
    count = max(values.characters, SEARCHED) + 1
    if values.text:
      name, tokens = values.text, _of_file(trained, paths.path("--text", values.text), count)
      file = values.text
    else:
      name, tokens = _held_out(trained, count)
      file = trained.settings.corpus
    language = _language_of(file) if values.language == AUTO else values.language
    annotations = {}
    if values.annotations:
      annotations = read_annotations(
        paths.path("--annotations", values.annotations),
        max(len(tokens) - 1, 0),
        len(tokens) if len(tokens) < count else None,
        LANGUAGES[language].legends if language != NO_LANGUAGE else (),
      )
    html, matches, remark = make_page(
      trained, name, tokens, values.characters, values.reach, language, annotations
    )
    if matches:
      print_ranking(matches, Console())
    print(exits.printable(remark))
    files.write_text(output, html)
  print(f"The page is {output}, {len(html.encode()) / 1e6:.1f} MB. Open it in a browser.")


def make_page(
  trained: TrainedModel,
  name: str,
  tokens: Integer[np.ndarray, " N"],
  shown: int,
  reach: int,
  language: str,
  annotations: Mapping[str, Float[np.ndarray, " T"]],
) -> tuple[str, list[Match], str]:
  """Lets a model read a text, searches its units, and returns the page.

  Args:
    trained: the model.
    name: name of the text.
    tokens: N = T + 1 tokens of the text; the last one is predicted but not read.
    shown: largest number of tokens on the page.
    reach: number of time steps over which each loss is traced back.
    language: the text's language, a name in LANGUAGES or `none`.
    annotations: values of further features of the text, by the feature's name.
  Returns:
    (the page as HTML, the units that were found, a remark on the features).
  Raises:
    ValueError: if the text is too short, or if the model's losses on it are not finite.
  """
  if len(tokens) < 2:
    raise ValueError(f"--text must hold at least 2 tokens, got {len(tokens)} in {name}.")
  pieces = text_pieces(trained.vocabulary, tokens[:-1])
  reading = read(trained.model, trained.variables, tokens)
  if not np.isfinite(reading.losses).all():
    raise ValueError(f"--model must have finite losses on {name}, got NaN or infinity.")
  features, legends = dict(annotations), dict.fromkeys(annotations, "from --annotations")
  if language != NO_LANGUAGE:
    # A byte that is not UTF-8 is one character of the text, but four in an escape such as \xff.
    exact = text_pieces(trained.vocabulary, tokens[:-1], errors="surrogateescape")
    features = text_features(exact, language) | features
    legends = {**LANGUAGES[language].legends, **legends}
  rules = _rules(language, bool(annotations))
  token = token_name(trained.settings)
  quantities = {q.name: q.values for q in reading.quantities}
  matches, method, remark = _ranked(features, quantities, token, len(pieces))
  shown = min(shown, len(pieces))
  reach = min(reach, shown)
  traced_back = jax.jit(functools.partial(saliency, trained.model, reach=reach))
  norms = traced_back(trained.variables, jnp.asarray(tokens[: shown + 1], jnp.int32))
  losses = reading.losses[:shown]
  html = page(
    "Inside a language model",
    _about(trained, token, name, losses),
    token,
    pieces[:shown],
    [q._replace(values=q.values[:shown]) for q in reading.quantities],
    losses,
    np.asarray(norms),
    matches,
    method,
    rules,
    legends,
  )
  return html, matches, f"{rules} {remark}".rstrip()


def print_ranking(matches: Sequence[Match], console: Console) -> None:
  """Prints a table of the units that were found."""
  if not console.is_terminal:
    console = Console(width=_PLAIN_WIDTH, file=console.file)
  table = Table(box=None, pad_edge=False)
  for column in ("feature of the text", "unit", "held-out r", "first-half r"):
    table.add_column(column, justify="right" if column.endswith(" r") else "left")
  for match in matches:
    unit = f"{match.quantity} {match.unit}"
    # A name in the user's file may look like rich's markup.
    table.add_row(Text(match.feature), unit, f"{match.held_out:.2f}", f"{match.selection:.2f}")
  console.print(table)


def _held_out(trained: TrainedModel, count: int) -> tuple[str, Integer[np.ndarray, " N"]]:
  """Returns the name and the first `count` tokens of the text that was held out in training.

  Raises:
    ValueError: if that text cannot be read, has changed, or does not exist.
  """
  settings = trained.settings
  try:
    texts = read_texts(settings, trained.vocabulary)
    sha256 = trained.metadata["corpus"]["sha256"]
  except (ValueError, KeyError) as error:
    raise ValueError(
      f"--text must be given, since the model's own text cannot be read ({error})"
    ) from None
  if texts.corpus.sha256 != sha256:
    raise ValueError(
      f"--text must be given, since {settings.corpus} has changed after the model was trained."
    )
  source = texts.held_out
  if source is None:
    raise ValueError("--text must be given, since the model was trained without held-out text.")
  return f"the held-out part of {settings.corpus}", source.encode(source.symbols[:count])


def _of_file(trained: TrainedModel, path: Path, count: int) -> Integer[np.ndarray, " N"]:
  """Returns the first `count` tokens of a file; reads only the beginning of the file."""
  length = count * (1 if trained.settings.level == CHARACTERS else _BYTES_PER_WORD)
  try:
    with path.open("rb") as file:
      text = file.read(length)
  except OSError as error:
    raise ValueError(f"--text must be a readable file, got {path} ({error.strerror}).") from None
  with command_line.errors_name_flags():
    return trained.vocabulary.encode(text)[:count]


def _about(trained: TrainedModel, token: str, name: str, losses: Float[np.ndarray, " T"]) -> str:
  """Returns the page's paragraph on the model and the text."""
  layers, count = trained.settings.layers, trained.vocabulary.size
  number = f"{layers.depth} layer{'s' if layers.depth > 1 else ''}"
  cell = f"{layers.cell} {options_text(layers.options)}".rstrip()
  loss = float(bits(jnp.mean(jnp.asarray(losses))))
  return (
    f"{number} of {layers.hidden_size} {cell} units with a vocabulary of {count:,} {token}s, after "
    f"{trained.step:,} updates on {trained.settings.corpus}. Below are {len(losses):,} {token}s "
    f"from {name}, with a mean loss of {loss:.2f} bits."
  )


def _language_of(file: str) -> str:
  """Returns the language of a text by its file's name, or `none` if it is unknown."""
  if file == STANDARD_LIBRARY:
    return "python"
  ending = Path(file).suffix.lower()
  return next((name for name, rules in LANGUAGES.items() if ending in rules.endings), NO_LANGUAGE)


def _rules(language: str, annotated: bool) -> str:
  """Returns a sentence on where the features come from."""
  if language != NO_LANGUAGE:
    also = " and from --annotations" * annotated
    return (
      f"Features come from the rules of {LANGUAGES[language].name} (--language={language}){also}."
    )
  if annotated:
    return "Features from --annotations."
  return (
    "Units are not ranked, because no features of the text are known. Choose a --language "
    f"({', '.join(sorted(LANGUAGES))}), or pass --annotations."
  )


def _ranked(
  features: Mapping[str, Float[np.ndarray, " T"]],
  quantities: Mapping[str, Float[np.ndarray, "T _"]],
  token: str,
  count: int,
) -> tuple[list[Match], str, str]:
  """Searches the units that track features of a text of `count` tokens.

  Returns:
    (the units that were found, the page's paragraph on how they were found, a remark for the
    terminal on what is not ranked; '' if all features are).
  """
  if not features:
    return [], "", ""
  units = sum(values.shape[1] for values in quantities.values())
  fewest = fewest_tokens(units)
  if count < fewest:
    refusal = (
      f"Units are not ranked, because the text has {count:,} {token}s. On fewer than {fewest:,}, "
      f"some of {units:,} units match any feature by chance."
    )
    return [], refusal, refusal
  matches = search(features, quantities, _TOP)
  half = count // 2
  method = (
    f"r is Pearson's correlation between the value of a unit after each {token} and the feature "
    f"there. The {_TOP} units with the largest |r| on the first {half:,} {token}s are selected. "
    f"They are ranked by their r on the {count - half:,} {token}s after those; a change of sign "
    "counts against a unit."
  )
  absent = ", ".join(feature for feature in features if feature not in {m.feature for m in matches})
  if not absent:
    return matches, method, ""
  return (
    matches,
    f"{method} Not ranked, because they are constant in one of the two parts: {absent}.",
    f"Not ranked, because they are constant in one half of the text: {absent}.",
  )


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
