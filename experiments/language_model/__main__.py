"""Trains a language model on a text, evaluates it on another, or lets it write.

  python -m experiments.language_model --flagfile=experiments/flagfiles/characters.flags
  python -m experiments.language_model --output_dir=results/characters --sample --prime="def "
  python -m experiments.language_model --output_dir=results/characters --evaluate=FILE

The folder holds all that the other two need. Started again with the same flags, a training that was
interrupted goes on. A sample goes to standard output as it is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console

from experiments.cli import command_line, parsers, progress
from experiments.language_model import plot as language_plot
from experiments.language_model import resume, trained_model
from experiments.language_model import settings as language_settings
from experiments.language_model.resume import Unfinished, best_of
from experiments.language_model.sample import sample
from experiments.language_model.settings import CALL, CHARACTERS, LINES, WORD_FLAGS, Settings, Texts
from experiments.language_model.trained_model import Trained
from experiments.language_model.training import Evaluation, make_judge, train
from experiments.networks import cell_options, cell_table
from experiments.runtime import backend, compilation_cache, locks, provenance, signals
from rnn_jax.checkpoints import Series
from rnn_jax.losses import bits, perplexity
from rnn_jax.text import Source, WordVocabulary, line_spans, load_corpus, make_source


def define_flags() -> None:
  """All flags of this program."""
  single, integer = parsers.define, parsers.integer
  language_settings.define()
  flags.DEFINE_string("output_dir", "results/language_model", "Folder of the model.")
  flags.DEFINE_boolean("overwrite", False, "Replace another model in the output folder.")
  single(
    "checkpoint_every",
    "500",
    integer("checkpoint_every"),
    "Updates from one checkpoint to the next, from which a training that was interrupted goes on; "
    f"rounded up to a multiple of {CALL}.",
  )
  flags.DEFINE_string(
    "evaluate", None, "Train nothing; print the loss of the folder's model on this file."
  )
  flags.DEFINE_boolean("sample", False, "Train nothing; let the folder's model write.")
  flags.DEFINE_string("prime", "", "Text that a sample goes on from; empty for a new line.")
  single("length", "1000", integer("length"), "Tokens of a sample, at most.")
  flags.DEFINE_boolean("until_eos", False, "End a sample with the first <eos>: the end of a line.")
  single(
    "temperature",
    "1",
    parsers.number("temperature", "a number of at least 0", lambda v: v >= 0),
    "What the logits of a sample are divided by; 0 always takes the likeliest token.",
  )
  single(
    "top_k",
    "all",
    integer("top_k", none="all"),
    "A sample's tokens come from the k likeliest alone, or from all.",
  )
  flags.adopt_module_key_flags(parsers)  # so that --help shows them
  flags.adopt_module_key_flags(language_settings)


def main(arguments: list[str]) -> None:
  """Does what the flags ask for."""
  values = flags.FLAGS
  try:
    with command_line.errors_in_one_line("--output_dir could not be read or written"):
      if values.list_cells:
        cell_table.show()
        return
      command_line.check_no_arguments(arguments)
      folder = command_line.folder("output_dir")
      if values.sample and values.evaluate is not None:
        raise ValueError("--sample and --evaluate must not be given together.")
      if values.sample:
        _sample(trained_model.load(folder))
      elif values.evaluate is not None:
        _judge(trained_model.load(folder), command_line.path("evaluate", values.evaluate))
      else:
        settings = language_settings.given()
        trained_model.check_folder(folder, values.overwrite)
        with command_line.errors_name_flags():
          texts = language_settings.read_texts(settings)
        settings = language_settings.with_matched_width(settings, texts.vocabulary.size)
        compilation_cache.use("auto")
        with locks.held_on(folder):
          _train(settings, texts, folder)
  except KeyboardInterrupt:
    command_line.interrupted(f"What is in {values.output_dir} is whole.")


class _Stopped(Exception):
  """The training was asked to stop, and what it has come to is on disk."""


def _train(settings: Settings, texts: Texts, folder: Path) -> None:
  overwrite = flags.FLAGS.overwrite
  model = language_settings.make_model(settings, texts.vocabulary.size)
  configuration = trained_model.configuration(settings, texts.corpus)
  trained_model.check_folder(folder, overwrite)  # once more: it may be another's since
  begun = None
  if trained_model.is_unfinished(folder, configuration, overwrite):
    begun = resume.find(folder / "unfinished", configuration, settings, model)
  with tempfile.TemporaryFile(dir=folder):
    pass  # an OSError now is better than one after the training
  baseline = language_settings.baseline(texts.train, texts.vocabulary.size)
  print(
    f"{len(texts.train.symbols)} tokens to learn, {_count(texts.held_out)} held out, "
    f"{texts.vocabulary.size} different; by frequency alone {_figures(baseline, settings)}"
  )
  if settings.reading == LINES:
    longer = np.mean(line_spans(texts.train)[1] > settings.window)
    print(f"{longer:.1%} of the lines are longer than the window, and are left out.")
  with signals.noted() as stop:
    try:
      evaluations = _evaluations(settings, texts, folder, _about(texts, baseline), begun, stop)
    except _Stopped:
      command_line.interrupted(
        f"What was learned is in {folder}, the same command goes on from there.",
        128 + (stop.number or signal.SIGTERM),
      )
  best, last = best_of(evaluations), evaluations[-1]
  if best is None:
    raise ValueError(
      f"--learning_rate or --clip_norm must be smaller: at update {last.step} the loss is "
      f"{last.loss}, and no checkpoint was kept."
    )
  speed = (last.step - CALL) * settings.window * settings.batch_size / last.seconds
  lines = [_line(evaluation, settings) for evaluation in evaluations]
  result = {
    "best": _line(best, settings),
    "last": lines[-1],
    "baseline": baseline,
    "diverged": not math.isfinite(last.judged_by),
    "tokens_per_second": speed,
  }
  picture = language_plot.save(lines, baseline, settings, folder / "training.png")
  trained_model.end(folder, result)
  if result["diverged"]:
    print(f"diverged by update {last.step}; the checkpoint is from before.")
  print(
    f"best after {best.step} updates: {_figures(best.judged_by, settings)}, on "
    f"{'what was learned' if best.validation_loss is None else 'what was held out'}; "
    f"{speed:.0f} tokens a second"
  )
  print(f"The model is in {folder}, a picture in {picture}; --sample lets it write.")


def _evaluations(
  settings: Settings,
  texts: Texts,
  folder: Path,
  about: dict[str, Any],
  begun: Unfinished | None,
  stop: signals.Stop,
) -> list[Evaluation]:
  """Trains to the end, from what an earlier start has come to."""
  model = language_settings.make_model(settings, texts.vocabulary.size)
  configuration = trained_model.configuration(settings, texts.corpus)
  evaluations: list[Evaluation] = []
  best, saved, is_ours = None, 0, False
  if begun is not None:
    evaluations = resume.evaluations_of(begun, texts.held_out is not None)
    best, saved, is_ours = begun.best, int(begun.training.state.step), True
    print(f"{saved} updates of an earlier start are kept.")
    known = best_of(evaluations)
    if known is not None:  # nothing is left of what came after the checkpoint
      trained_model.keep(folder, known.step, best)

  with contextlib.ExitStack() as stack:
    series = stack.enter_context(contextlib.closing(Series(folder / "unfinished")))
    shown = progress.show(settings.steps, saved, Console(), title="training", unit="updates")
    report = stack.enter_context(shown)
    report("compiling", saved, None)
    for call in train(settings, model, texts.read, texts.held_out, begun and begun.training):
      report("training", call.step, call.loss)
      new = call.evaluation
      if new is not None:
        evaluations.append(new._replace(params=None))
      is_best = new is not None and best_of(evaluations) is evaluations[-1]
      is_over = call.step == settings.steps or not math.isfinite(call.loss)
      stopping = stop() and not is_over
      is_due = stopping or (call.step - saved >= flags.FLAGS.checkpoint_every and not is_over)
      if (is_best or is_due) and not is_ours:  # what an older model has left goes no earlier
        lines = _flag_lines(settings)
        trained_model.begin(folder, settings, texts.vocabulary, lines, about)
        is_ours = True
      if new is not None and is_best:
        best = new.params
        trained_model.keep(folder, call.step, best)
      if new is not None and is_ours:
        trained_model.write_metrics(folder, [_line(e, settings) for e in evaluations])
      if is_due:
        tree = resume.collect(call.partial(), evaluations, best)
        series.save(call.step, tree, configuration)
        saved = call.step
      if stopping:
        series.wait()
        raise _Stopped
  return evaluations


def _judge(trained: Trained, path: Path) -> None:
  """Prints the loss of a model on a file."""
  settings, vocabulary = trained.settings, trained.vocabulary
  try:
    source = make_source(load_corpus(path), vocabulary)
  except ValueError as error:
    raise ValueError(f"--evaluate: {error}") from None
  if len(source.symbols) < 2:
    raise ValueError(f"--evaluate must hold 2 tokens or more, got {len(source.symbols)}.")
  # A short text is read in as few lanes as it fills.
  lanes = min(settings.batch_size, max(1, (len(source.symbols) - 1) // settings.window))
  loss = make_judge(trained.model, settings, lanes)(trained.variables["params"], source)
  print(f"{len(source.symbols)} tokens of {path}: {_figures(loss, settings)}")
  if isinstance(vocabulary, WordVocabulary):
    print(f"unknown words: {np.mean(source.symbols == vocabulary.unk):.2%}")


def _sample(trained: Trained) -> None:
  """Prints what a model writes, as it comes."""
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
  piece = b""
  for piece in pieces:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
  if not piece.endswith(b"\n"):
    print()


def _line(evaluation: Evaluation, settings: Settings) -> dict[str, Any]:
  """An evaluation, as metrics.jsonl has it."""
  line = evaluation._asdict()
  del line["params"]
  if evaluation.validation_loss is None:
    del line["validation_loss"]
  line["perplexity"] = float(perplexity(jnp.float32(evaluation.judged_by)))
  if settings.level == CHARACTERS:
    line["bits_per_character"] = float(bits(jnp.float32(evaluation.judged_by)))
  return line


def _figures(loss: float, settings: Settings) -> str:
  """A loss in all its units."""
  what = "character" if settings.level == CHARACTERS else "word"
  value = jnp.float32(loss)
  words = [f"{loss:.4f} nats", f"{float(bits(value)):.4f} bits per {what}"]
  return ", ".join([*words, f"perplexity {float(perplexity(value)):.4g}"])


def _flag_lines(settings: Settings) -> str:
  """The flags that make this model again, one a line."""
  values = dataclasses.asdict(settings)
  values |= values.pop("layers")
  del values["match_params"]  # the width is known
  cell = cell_options.as_flags(values.pop("cell"), values.pop("options"))
  if settings.level == CHARACTERS:
    values = {name: value for name, value in values.items() if name not in WORD_FLAGS}
  lines = [f"--{name}={_as_flag(name, value)}" for name, value in values.items()]
  return "".join(line + "\n" for line in [*cell.split(" "), *lines])


def _as_flag(name: str, value: Any) -> str:
  if value is None or value == ():
    return "all" if name == "characters" else "none"
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _count(source: Source | None) -> int:
  return 0 if source is None else len(source.symbols)


def _about(texts: Texts, baseline: float) -> dict[str, Any]:
  """What else a reader of the folder must know."""
  corpus = texts.corpus
  return {
    "corpus": {"name": corpus.name, "sha256": corpus.sha256, "bytes": len(corpus.text)},
    "tokens": {"learned": len(texts.train.symbols), "held_out": _count(texts.held_out)},
    "baseline": baseline,
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": provenance.versions((*provenance.PACKAGES, "orbax-checkpoint")),
    "devices": [str(device) for device in jax.local_devices()],
    "git": provenance.git(),
  }


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
