"""Training of a language model with its checkpoints, best params and metrics kept in a folder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from experiments.cli import progress
from experiments.language_model import resume, trained_model
from experiments.language_model.flags import as_flagfile
from experiments.language_model.report import metrics
from experiments.language_model.resume import ResumePoint
from experiments.language_model.settings import Settings, make_model
from experiments.language_model.texts import Texts
from experiments.language_model.training import Chunk, Evaluation, best_evaluation, train
from experiments.runtime import exits, signals
from rnn_jax.checkpoints import Series
from rnn_jax.types import Params


class Stopped(Exception):
  """Raised after training was asked to stop and has saved a checkpoint of its progress."""


def train_in_folder(
  settings: Settings,
  texts: Texts,
  folder: Path,
  metadata: Mapping[str, object],
  resumed_from: ResumePoint | None,
  checkpoint_every: int,
  stop: signals.Stop,
) -> list[Evaluation]:
  """Trains a model to completion, saving checkpoints, the best params and metrics along the way.

  Args:
    settings: how to train.
    texts: the texts to train and evaluate on.
    folder: the model's folder.
    metadata: entries of model.json in addition to settings and vocabulary.
    resumed_from: contents of the checkpoint to resume from; None to start from fresh params.
    checkpoint_every: number of updates between checkpoints.
    stop: callable that returns True once training must stop early.
  Returns:
    All evaluations, including those from before an interruption; their params are None.
  Raises:
    Stopped: if `stop` returned True before the last update; a checkpoint has then been saved.
  """
  model = make_model(settings, texts.vocabulary.size)
  configuration = trained_model.configuration(settings, texts.corpus)
  with contextlib.ExitStack() as stack:
    series = stack.enter_context(contextlib.closing(Series(folder / trained_model.UNFINISHED)))
    record = _Record(settings, texts, folder, metadata, resumed_from)
    saved, initial = record.resumed_at, resumed_from and resumed_from.training
    shown = progress.show(settings.steps, saved, Console(), title="training", unit="updates")
    report = stack.enter_context(shown)
    report("compiling", saved, None)
    for chunk in train(settings, model, texts.read, texts.evaluated, initial):
      report("training", chunk.step, chunk.loss)
      is_finite = math.isfinite(chunk.loss)
      is_done = chunk.step == settings.steps or not is_finite
      stopping = stop() and not is_done
      is_due = stopping or (chunk.step - saved >= checkpoint_every and not is_done)
      before = list(record.evaluations), record.best
      record.add(chunk, is_due)
      # The last evaluation is left out if it is due only because training ends here: more steps
      # then give what they would have given at once.
      is_regular = chunk.step % settings.evaluate_every == 0
      evaluations, best = (record.evaluations, record.best) if is_regular else before
      if is_due:
        point = resume.resume_point(chunk.progress(), evaluations, best)
        series.save(chunk.step, point, configuration)
        saved = chunk.step
      # No steps can be added to a model that diverged, or whose schedule depends on their number.
      last = chunk.evaluation
      can_continue = is_finite and last is not None and math.isfinite(last.text_loss)
      if is_done and can_continue and settings.schedule == "constant":
        point = resume.resume_point(chunk.progress(), evaluations, best)
        trained_model.save_final(folder, chunk.step, point)
      if stopping:
        series.wait()
        raise Stopped
  return record.evaluations


class _Record:
  """The evaluations and the best params so far, kept in memory and in the model's folder.

  Attributes:
    evaluations: all evaluations so far, without params.
    best: params of the best evaluation so far; None before the first one.
    resumed_at: number of updates done before an interruption; 0 if training was not resumed.
  """

  def __init__(
    self,
    settings: Settings,
    texts: Texts,
    folder: Path,
    metadata: Mapping[str, object],
    point: ResumePoint | None,
  ) -> None:
    self._settings, self._texts, self._folder = settings, texts, folder
    self._metadata = metadata
    self.evaluations: list[Evaluation] = []
    self.best: Params | None = None
    self.resumed_at = 0
    self._folder_started = point is not None
    if point is not None:
      self._resume(point)

  def _resume(self, point: ResumePoint) -> None:
    trained_model.record_steps(self._folder, self._settings, as_flagfile(self._settings))
    is_old = trained_model.began_with_lanes(self._folder)
    is_held_out = self._texts.held_out is not None
    self.evaluations = resume.past_evaluations(point, is_held_out or not is_old)
    self.best, self.resumed_at = point.best, int(point.training.state.step)
    print(f"Resuming after {self.resumed_at} updates.")
    if is_old and self.evaluations:
      until = f"up to update {self.evaluations[-1].step}"
      exits.warn(
        f"held-out losses {until} may be too high: version 0.1.0 read the text in lanes, each from "
        "a new carry."
        if is_held_out
        else f"losses of the training text {until} are those of the training batches: version "
        "0.1.0 did not evaluate the text."
      )
    best = best_evaluation(self.evaluations)
    if best is not None:  # the folder's params may be newer than the checkpoint, or missing
      trained_model.save_best(self._folder, best.step, self.best)

  def add(self, chunk: Chunk, is_due: bool) -> None:
    """Records a chunk's evaluation, if it has one, in memory and in the folder.

    Args:
      chunk: the result of the latest updates.
      is_due: whether the caller will save a checkpoint after this chunk. If True, model.json and
        the flagfile are written, even if there is no best evaluation yet.
    """
    new, is_best = chunk.evaluation, False
    if new is not None:
      self.evaluations.append(new._replace(params=None))
      is_best = best_evaluation(self.evaluations) is self.evaluations[-1]
    # An earlier model's files stay until there are params or a checkpoint to replace them.
    if (is_best or is_due) and not self._folder_started:
      flagfile = as_flagfile(self._settings)
      vocabulary = self._texts.vocabulary
      trained_model.start(self._folder, self._settings, vocabulary, flagfile, self._metadata)
      self._folder_started = True
    if new is not None and is_best:
      self.best = new.params
      trained_model.save_best(self._folder, chunk.step, self.best)
    if new is not None and self._folder_started:
      entries = [metrics(evaluation, self._settings) for evaluation in self.evaluations]
      trained_model.write_metrics(self._folder, entries)
