"""The contents of a training's checkpoint, and the search for the one to resume from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.language_model import trained_model
from experiments.language_model.settings import Settings
from experiments.language_model.training import Evaluation, Progress, progress_like
from experiments.runtime import exits
from rnn_jax import checkpoints
from rnn_jax.modules import DeepRNN
from rnn_jax.types import Params


class ResumePoint(NamedTuple):
  """The pytree in a checkpoint, with everything that training needs to resume.

  A field must not be renamed, because its name is part of the leaves' names in old checkpoints.

  Attributes:
    training: the training's progress so far.
    evaluations: float64, a row per evaluation with the columns step, loss, gradient norm, loss of
      the evaluated text (NaN in version 0.1.0 if nothing is held out), and seconds.
    best: params of the best evaluation; before the first evaluation, the current params.
  """

  training: Progress
  evaluations: Float[np.ndarray, "evaluations 5"]
  best: Params


def resume_point(
  progress: Progress, evaluations: Sequence[Evaluation], best: Params | None
) -> ResumePoint:
  """Builds the pytree of a checkpoint; `best` is None before the first evaluation."""
  rows = [e[:5] for e in evaluations]
  params = progress.state.params if best is None else best
  return ResumePoint(progress, np.array(rows, np.float64).reshape(-1, 5), params)


def newest(
  folder: Path, configuration: Mapping[str, object], settings: Settings, model: DeepRNN
) -> ResumePoint | None:
  """Returns the contents of the checkpoint to resume from; None if there is none.

  An unfinished training resumes from its newest intact checkpoint; a warning is printed for each
  damaged one. A finished training resumes from its final state.

  Args:
    folder: the model's folder, for which `trained_model.can_resume` is True.
    configuration: the configuration of the settings.
    settings: how to train.
    model: the network.
  Raises:
    ValueError: if a checkpoint has a different configuration, or the final state of a finished
      training is damaged.
  """
  finished = trained_model.is_finished(folder)

  def like(step: int) -> ResumePoint:
    progress = progress_like(settings, model, step)
    rows = np.zeros((step // settings.evaluate_every, 5))
    return ResumePoint(progress, rows, progress.state.params)

  saved = (
    None if finished else checkpoints.newest(folder / trained_model.UNFINISHED, configuration, like)
  )
  if saved is None:
    saved = checkpoints.newest(folder / trained_model.FINAL, {}, like)
  if saved is None:
    return None
  if finished and saved.step is None:
    raise ValueError(f"{saved.damaged[0]} Pass --overwrite to train from the start.")
  for message in saved.damaged:
    exits.warn(message)
  if saved.step is None:
    exits.warn("no intact checkpoint is left; training starts over.")
  # A process that was killed while it finished may have left the final state of all steps, which
  # lacks the last evaluation.
  return None if saved.step == settings.steps else saved.tree


def past_evaluations(point: ResumePoint, has_text_loss: bool) -> list[Evaluation]:
  """Returns the evaluations that a checkpoint holds, without params.

  If `has_text_loss` is False, no text was evaluated, and the loss of the training batches stands in
  for that of the text.
  """
  return [
    Evaluation(int(step), loss, norm, text_loss if has_text_loss else loss, seconds, None)
    for step, loss, norm, text_loss, seconds in point.evaluations.tolist()
  ]
