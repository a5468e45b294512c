"""The step at which a run diverged: recomputed, to locate its first NaN or infinity."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from experiments.sweep.config.runs import Run, Settings, hidden_size_of
from experiments.sweep.records.record import Result, Snapshot
from experiments.sweep.training.run_setup import (
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  time_options,
)
from rnn_jax.gradient_flow import NonFinite, first_nonfinite
from rnn_jax.modules import DeepRNN
from rnn_jax.tasks import Task
from rnn_jax.types import Array

# Returns the same object for the same sizes, so that runs of the same network share
# compiled functions.
_network = functools.cache(network)


class DivergedStep(NamedTuple):
  """A step that diverged, with everything needed to recompute it.

  Attributes:
    run, settings: the run, and the settings of its sweep.
    step: the step.
    loss, output_size, vocabulary_size: those of the task.
    snapshot: params and optimizer state before the step, and its batch.
  """

  run: Run
  settings: Settings
  step: int
  loss: Callable[[Array, Array], Array]
  output_size: int
  vocabulary_size: int | None
  snapshot: Snapshot


def diverged_step(result: Result, settings: Settings, task: Task) -> DivergedStep | None:
  """Returns the step at which a run diverged; None if it finished."""
  if result.diverged_step is None or result.snapshot is None:
    return None
  about = task.loss, task.output_size, task.vocabulary_size
  return DivergedStep(result.run, settings, result.diverged_step, *about, result.snapshot)


def locate(diverged: DivergedStep) -> NonFinite | None:
  """Recomputes the step; returns the location of its first NaN or infinity, if there is one."""
  numbers = numbers_of(diverged.run, diverged.settings)
  params, opt_state, batch = diverged.snapshot
  _, data_key = jax.random.split(jax.random.key(numbers.seed))
  return first_nonfinite(
    model_of(diverged.run, diverged.settings, diverged.output_size, diverged.vocabulary_size),
    params,
    batch,
    diverged.loss,
    optimizer=optimizer_of(diverged.run, diverged.settings, numbers),
    opt_state=opt_state,
    key=mask_key(data_key, diverged.step),
    **time_options(diverged.run, numbers),
  )


def model_of(
  run: Run, settings: Settings, output_size: int, vocabulary_size: int | None
) -> DeepRNN:
  """Returns the model of a run, given the sizes of its task."""
  about = run.cell, run.depth, hidden_size_of(run, settings), output_size, vocabulary_size
  return _network(*about, **dict(run.options))
