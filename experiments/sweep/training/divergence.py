"""Recomputes the step at which a run diverged, to locate the step's first NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from experiments.sweep.config.runs import Run
from experiments.sweep.records.record import Result, Snapshot
from experiments.sweep.training.run_setup import (
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  penalty_of,
  time_options,
)
from rnn_jax.gradient_flow import NonFinite, first_nonfinite
from rnn_jax.tasks import Task
from rnn_jax.types import Array


class DivergedStep(NamedTuple):
  """A step at which a run diverged, with everything needed to recompute the step.

  Attributes:
    run: the run.
    step: index of the step, from 0.
    loss, output_size, vocabulary_size: the task's attributes of the same names.
    snapshot: params and optimizer state before the step, and the step's batch.
  """

  run: Run
  step: int
  loss: Callable[[Array, Array], Array]
  output_size: int
  vocabulary_size: int | None
  snapshot: Snapshot


def diverged_step(result: Result, task: Task) -> DivergedStep | None:
  """Returns the step at which a run diverged, with the step's inputs; None if the run finished."""
  if result.diverged_step is None or result.snapshot is None:
    return None
  about = task.loss, task.output_size, task.vocabulary_size
  return DivergedStep(result.run, result.diverged_step, *about, result.snapshot)


def locate(diverged: DivergedStep) -> NonFinite | None:
  """Recomputes a diverged step; returns the location of its first NaN or infinity, if any.

  The backward pass is that of backpropagation through time, even if the run used another gradient
  estimator.
  """
  numbers = numbers_of(diverged.run)
  options = time_options(diverged.run, numbers)
  options.pop("estimator", None)
  params, opt_state, batch = diverged.snapshot
  _, data_key = jax.random.split(jax.random.key(numbers.seed))
  model = network(diverged.run, diverged.output_size, diverged.vocabulary_size)
  return first_nonfinite(
    model,
    params,
    batch,
    diverged.loss,
    optimizer=optimizer_of(diverged.run, numbers),
    opt_state=opt_state,
    key=mask_key(data_key, diverged.step),
    penalty=penalty_of(diverged.run, numbers, model, diverged.loss),
    **options,
  )
