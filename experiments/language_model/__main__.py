"""Trains a language model, evaluates it on a file, or generates text with it.

  python -m experiments.language_model --flagfile=characters
  python -m experiments.language_model --output_dir=results/characters --sample --prime="def "
  python -m experiments.language_model --output_dir=results/characters --evaluate=FILE

The first command writes everything that the other two need to the output folder,
results/characters. If training is interrupted, the same command resumes it. Generated text is
written to standard output while it is generated.
"""

from __future__ import annotations

import codecs
import math
import signal
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments.cli import command_line, flag_table, paths, plugins
from experiments.cli.flag_table import Flag, grouped
from experiments.cli.parsers import integer, number
from experiments.language_model import flags as language_flags
from experiments.language_model import resume, trained_model
from experiments.language_model.report import loss_text, metrics
from experiments.language_model.run import Stopped, train_in_folder
from experiments.language_model.sample import sample
from experiments.language_model.settings import CHUNK, LINES, Settings, make_model
from experiments.language_model.texts import Texts, read_texts, unigram_loss
from experiments.language_model.trained_model import TrainedModel
from experiments.language_model.training import Evaluation, best_evaluation, make_evaluate
from experiments.networks import cell_options, cell_table
from experiments.runtime import backend, compilation_cache, exits, files, locks, signals
from rnn_jax.text import WordVocabulary, line_spans, load_corpus, make_source

# With fewer held-out tokens, training warns. A token's loss has a standard deviation of about 2
# nats, so the standard error of the mean of 1000 independent ones is 0.06 nats. Neighboring tokens
# are not independent: means over 1000 characters of the standard library differ by 0.3 nats.
_FEW_TOKENS = 1000

# If nothing is held out and the training text has more tokens, training warns, because every
# evaluation reads the whole text, one token after the other: this many take 1 to 30 s.
_MANY_TOKENS = 200_000

_OUTPUT = (
  Flag("output_dir", "results/language_model", str, "Folder of the model."),
  Flag(
    "overwrite",
    "false",
    None,
    "Replace the model in --output_dir. An unfinished training with the same settings resumes in "
    "any case.",
  ),
  Flag(
    "checkpoint_every",
    "500",
    integer("checkpoint_every"),
    "Updates between checkpoints, from which an interrupted training resumes; rounded up to a "
    f"multiple of {CHUNK}.",
  ),
)

_USES = (
  Flag("sample", "false", None, "Do not train; generate text with the model in --output_dir."),
  Flag("prime", "", str, "Text that a sample continues; if empty, it starts a new line."),
  Flag("length", "1000", integer("length"), "Largest number of tokens in a sample."),
  Flag("until_eos", "false", None, "End a sample at its first <eos>, the end of a line."),
  Flag(
    "temperature",
    "1",
    number("temperature", "a number of at least 0", lambda v: v >= 0),
    "Temperature of a sample, by which the logits are divided; 0 always takes the likeliest token.",
  ),
  Flag(
    "top_k",
    "all",
    integer("top_k", none="all"),
    "Draw a sample's tokens from the k likeliest only, or from all.",
  ),
  Flag(
    "evaluate",
    None,
    str,
    "Do not train; print the loss of the model in --output_dir on this file.",
  ),
)

TABLE = (
  *language_flags.TABLE,
  *grouped("Output", _OUTPUT),
  *grouped("Uses of a trained model", _USES),
  *grouped("Other commands", (cell_options.LIST_CELLS,)),
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Trains, evaluates or samples a language model, as the flags say."""
  values = flags.FLAGS
  try:
    with command_line.errors_in_one_line("--output_dir could not be read or written"):
      if values.list_cells is not None:
        cell_table.show(values.list_cells)
        return
      command_line.check_no_arguments(arguments)
      folder = paths.folder("--output_dir", flags.FLAGS.output_dir)
      if values.sample and values.evaluate is not None:
        raise ValueError("--sample and --evaluate must not be given together.")
      if values.sample:
        _print_sample(trained_model.load(folder))
      elif values.evaluate is not None:
        _print_loss(trained_model.load(folder), paths.path("--evaluate", values.evaluate))
      else:
        settings = language_flags.from_flags()
        trained_model.check_folder(folder, settings.steps, values.overwrite)
        with command_line.errors_name_flags():
          texts = read_texts(settings)
        settings = language_flags.with_matched_width(settings, texts.vocabulary.size)
        compilation_cache.use("auto")
        with locks.folder_lock(folder):
          _train(settings, texts, folder)
  except KeyboardInterrupt:
    exits.interrupted(f"Everything written to {values.output_dir} so far is intact.")


def _train(settings: Settings, texts: Texts, folder: Path) -> None:
  """Trains a model, resumes its training or trains it further, and prints the outcome.

  The caller must hold the folder's lock.
  """
  overwrite = flags.FLAGS.overwrite
  # Checks again now that the lock is held, because another process may have trained here meanwhile.
  trained_model.check_folder(folder, settings.steps, overwrite)
  recorded = trained_model.with_recorded_path(settings, texts.corpus, folder)
  configuration = trained_model.configuration(recorded, texts.corpus)
  point = None
  if trained_model.can_resume(folder, configuration, overwrite):
    settings = recorded
    model = make_model(settings, texts.vocabulary.size)
    point = resume.newest(folder, configuration, settings, model)
    trained_model.warn_if_changed(files.read_json(folder / trained_model.MODEL), settings)
  with tempfile.TemporaryFile(dir=folder):
    pass  # checks now, rather than after the training, that the folder can be written to
  baseline = unigram_loss(texts.train, texts.vocabulary.size)
  _print_task(settings, texts, baseline)
  with signals.caught() as stop:
    try:
      metadata = trained_model.metadata(texts, baseline)
      every = flags.FLAGS.checkpoint_every
      evaluations = train_in_folder(settings, texts, folder, metadata, point, every, stop)
    except Stopped:
      exits.interrupted(
        f"Progress is saved in {folder}. Run the same command again to resume.",
        128 + (stop.number or signal.SIGTERM),
      )
  _finish(settings, evaluations, baseline, folder)


def _print_task(settings: Settings, texts: Texts, baseline: float) -> None:
  held_out = 0 if texts.held_out is None else len(texts.held_out.symbols)
  print(
    f"Training on {len(texts.train.symbols)} tokens, with {held_out} held out and a vocabulary of "
    f"{texts.vocabulary.size}. Loss from token frequencies alone: {loss_text(baseline, settings)}."
  )
  if texts.held_out is not None and held_out < _FEW_TOKENS:
    exits.warn(
      f"the held-out loss is uncertain, because only {held_out} tokens are held out. Hold "
      f"out at least {_FEW_TOKENS}: use a longer text or a larger --validation_share."
    )
  size = len(texts.evaluated.symbols)
  if texts.held_out is None and size > _MANY_TOKENS:
    exits.warn(
      f"nothing is held out, so each evaluation reads all {size} tokens of the training text. If "
      "that takes too long, hold out its end (--validation_share) or evaluate less often "
      "(--evaluate_every)."
    )
  if settings.reading == LINES:
    longer = np.mean(line_spans(texts.train)[1] > settings.window)
    print(f"{longer:.1%} of the lines are longer than --window={settings.window} and are skipped.")


def _finish(
  settings: Settings, evaluations: list[Evaluation], baseline: float, folder: Path
) -> None:
  """Writes result.json and training.png at the end of training, and prints a summary.

  Raises:
    ValueError: if training diverged before any params were saved.
  """
  best, last = best_evaluation(evaluations), evaluations[-1]
  if best is None:
    raise ValueError(
      f"Training diverged: the loss is {last.loss} at update {last.step}, and no params were "
      "saved. Try a smaller --learning_rate or --clip_norm."
    )
  speed = (last.step - CHUNK) * settings.window * settings.batch_size / last.seconds
  entries = [metrics(evaluation, settings) for evaluation in evaluations]
  result = {
    "best": metrics(best, settings),
    "last": entries[-1],
    "baseline": baseline,
    "diverged": not math.isfinite(last.text_loss),
    "tokens_per_second": speed,
  }
  # Imported here because loading matplotlib takes a second, which would delay error messages.
  from experiments.language_model import plot

  figure = plot.save(entries, baseline, settings, folder / trained_model.CURVE)
  trained_model.finish(folder, result)
  if result["diverged"]:
    print(f"Training diverged by update {last.step}; the saved params are from before that.")
  text = "held-out" if settings.validation_share > 0 else "training"
  print(
    f"Best after {best.step} updates: {loss_text(best.text_loss, settings)} on {text} text; "
    f"{speed:.0f} tokens per second."
  )
  modules = plugins.given()
  imports = f" --import={','.join(modules)}" if modules else ""
  print(
    f"The model is in {folder}, its loss curve in {figure}. To generate text, run: "
    f"python -m experiments.language_model{imports} --output_dir={folder} --sample"
  )


def _print_loss(trained: TrainedModel, path: Path) -> None:
  """Prints a model's mean loss on a text file and, for a word model, the share of unknown words.

  Raises:
    ValueError: if the file cannot be read or encoded, or has fewer than 2 tokens.
  """
  settings, vocabulary = trained.settings, trained.vocabulary
  try:
    source = make_source(load_corpus(path), vocabulary)
  except ValueError as error:
    raise ValueError(f"--evaluate: {error}") from None
  if len(source.symbols) < 2:
    raise ValueError(
      f"--evaluate must name a file of at least 2 tokens, got {len(source.symbols)}."
    )
  loss = make_evaluate(trained.model, settings)(trained.variables["params"], source)
  print(f"{len(source.symbols)} tokens of {path}: {loss_text(loss, settings)}")
  if isinstance(vocabulary, WordVocabulary):
    print(f"unknown words: {np.mean(source.symbols == vocabulary.unk):.2%}")


def _print_sample(trained: TrainedModel) -> None:
  """Prints text that a model generates, piece by piece as it is generated."""
  values = flags.FLAGS
  pieces = sample(
    trained,
    values.prime.encode(errors="surrogateescape"),
    values.length,
    jax.random.key(values.seed),
    temperature=values.temperature,
    top_k=values.top_k,
    until_eos=values.until_eos,
  )
  # A terminal would obey control characters that come from an untrusted text or model.
  decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
  piece = b""
  for piece in pieces:
    shown = exits.without_controls(decode(piece)).encode() if sys.stdout.isatty() else piece
    sys.stdout.buffer.write(shown)
    sys.stdout.buffer.flush()
  if not piece.endswith(b"\n"):
    print()


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
