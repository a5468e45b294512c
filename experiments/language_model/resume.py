"""What the training of a language model goes on from, once it was interrupted."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.language_model.settings import Settings
from experiments.language_model.training import Evaluation, Partial, partial_like
from rnn_jax import checkpoints
from rnn_jax.modules import DeepRNN


class Unfinished(NamedTuple):
  """A training, and what is known of it.

  Attributes:
    training: what it has come to.
    evaluations: [evaluations, 5]: step, loss, gradient norm, loss on what is held out (NaN where
      nothing is), seconds; float64.
    best: params of the best evaluation; any before there is one.
  """

  training: Partial
  evaluations: np.ndarray
  best: Any


def collect(training: Partial, evaluations: Sequence[Evaluation], best: Any) -> Unfinished:
  """What is to be saved; `best` are the params of the best evaluation, None before there is one."""
  rows = [[math.nan if v is None else v for v in e[:5]] for e in evaluations]
  best = training.state.params if best is None else best
  return Unfinished(training, np.array(rows, np.float64).reshape(-1, 5), best)


def find(
  folder: Path, configuration: dict[str, Any], settings: Settings, model: DeepRNN
) -> Unfinished | None:
  """The newest that is whole, with a warning for each newer one; None where none is.

  Raises:
    ValueError: it is of another configuration.
  """

  def like(step: int) -> Unfinished:
    training = partial_like(settings, model, step)
    rows = np.zeros((step // settings.evaluate_every, 5))
    return Unfinished(training, rows, training.state.params)

  saved = checkpoints.newest(folder, configuration, like)
  for message in () if saved is None else saved.damaged:
    print(f"warning: {message}", file=sys.stderr)
  if saved is not None and saved.step is None:
    print("warning: no checkpoint is whole; the training begins anew.", file=sys.stderr)
  return None if saved is None else saved.tree


def evaluations_of(found: Unfinished, held_out: bool) -> list[Evaluation]:
  """The evaluations so far, without params."""
  rows = found.evaluations.tolist()
  return [
    Evaluation(int(step), loss, norm, judged if held_out else None, seconds, None)
    for step, loss, norm, judged, seconds in rows
  ]


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
  """The one of the lowest loss, the first such; None where no loss is finite."""
  sound = [e for e in evaluations if e.judged_by < math.inf]
  return min(sound, key=lambda e: e.judged_by, default=None)
