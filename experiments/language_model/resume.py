"""The contents of an unfinished training's checkpoint, and the search for the newest intact one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.language_model.settings import Settings
from experiments.language_model.training import Evaluation, Progress, progress_like
from experiments.runtime import exits
from rnn_jax import checkpoints
from rnn_jax.modules import DeepRNN
from rnn_jax.types import Params


class ResumePoint(NamedTuple):
  """The pytree in a checkpoint, with everything that an interrupted training needs to resume.

  A field must not be renamed, because its name is part of the leaves' names in old checkpoints.

  Attributes:
    training: the training's progress so far.
    evaluations: float64, a row per evaluation with the columns step, loss, gradient norm, held-out
      loss (NaN if nothing is held out), and seconds.
    best: params of the best evaluation; before the first evaluation, the current params.
  """

  training: Progress
  evaluations: Float[np.ndarray, "evaluations 5"]
  best: Params


def resume_point(
  progress: Progress, evaluations: Sequence[Evaluation], best: Params | None
) -> ResumePoint:
  """Builds the pytree of a checkpoint; `best` is None before the first evaluation."""
  rows = [[math.nan if value is None else value for value in e[:5]] for e in evaluations]
  params = progress.state.params if best is None else best
  return ResumePoint(progress, np.array(rows, np.float64).reshape(-1, 5), params)


def newest(
  folder: Path, configuration: Mapping[str, object], settings: Settings, model: DeepRNN
) -> ResumePoint | None:
  """Returns the contents of the newest intact checkpoint in a folder; None if there is none.

  A warning is printed for each damaged checkpoint.

  Raises:
    ValueError: if a checkpoint has a different configuration.
  """

  def like(step: int) -> ResumePoint:
    progress = progress_like(settings, model, step)
    rows = np.zeros((step // settings.evaluate_every, 5))
    return ResumePoint(progress, rows, progress.state.params)

  saved = checkpoints.newest(folder, configuration, like)
  if saved is None:
    return None
  for message in saved.damaged:
    exits.warn(message)
  if saved.step is None:
    exits.warn("no intact checkpoint is left; training starts over.")
  return saved.tree


def past_evaluations(point: ResumePoint, held_out: bool) -> list[Evaluation]:
  """Returns the evaluations that a checkpoint holds, without params.

  If `held_out` is False, no text was held out, and every held-out loss is None instead of NaN.
  """
  return [
    Evaluation(int(step), loss, norm, held_out_loss if held_out else None, seconds, None)
    for step, loss, norm, held_out_loss, seconds in point.evaluations.tolist()
  ]
