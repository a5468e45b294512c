"""Builds the parts of a run: numbers, network, optimizer, and arguments of the time loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Key

from experiments.sweep.config.runs import Run, Settings
from rnn_jax.cells import make_cell
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import shard
from rnn_jax.training import make_optimizer
from rnn_jax.types import Array


class Numbers(NamedTuple):
  """The numbers in which runs of a group may differ; traced, so that the runs share a program."""

  seed: ArrayLike
  truncation: ArrayLike
  learning_rate: ArrayLike
  clip_norm: ArrayLike
  recurrent_gain: ArrayLike
  forget_bias: ArrayLike


def network(
  cell: str,
  depth: int,
  hidden_size: int,
  output_size: int,
  vocabulary_size: int | None,
  **options: Any,
) -> DeepRNN:
  """Builds the model of a run; `options` are those of its cell."""
  cells = [make_cell(cell, hidden_size, **options)] * depth
  return DeepRNN(cells, output_size, vocabulary_size)


def numbers_of(run: Run, settings: Settings) -> Numbers:
  """Returns the numbers of a run; for those that it lacks, values that have no effect."""
  full = settings.sequence_length
  return Numbers(
    np.uint32(run.seed),
    np.int32(full if run.truncation is None else min(run.truncation, full)),
    np.float32(run.learning_rate),
    np.float32(np.inf if run.clip_norm is None else run.clip_norm),
    np.float32(1 if run.recurrent_gain is None else run.recurrent_gain),
    np.float32(0 if run.forget_bias is None else run.forget_bias),
  )


def optimizer_of(run: Run, settings: Settings, numbers: Numbers) -> optax.GradientTransformation:
  """Builds the optimizer of a group, from any of its runs, with the numbers of one run."""
  rate, limit = numbers.learning_rate, numbers.clip_norm
  return make_optimizer(settings.optimizer, rate, limit, run.clip_by)


def time_options(run: Run, numbers: Numbers) -> dict[str, Any]:
  """Returns the arguments of `update` that concern time, with the numbers of one run."""
  limit = numbers.clip_norm if run.clip_by == "carry" else None
  return {"truncation": numbers.truncation, "clip_carry": limit}


def mask_key(data_key: Key[Array, ""], step: ArrayLike, data_parallel: int = 1) -> Key[Array, ""]:
  """Returns the key for the masks of stochastic cells at a step.

  Args:
    data_key: the run's key for drawing batches.
    step: the step.
    data_parallel: number of devices that share a batch; each gets a key of its own.
  """
  # Batches fold their step into the data key. A step is below 2³¹, so this key is never a batch's.
  key = jax.random.fold_in(jax.random.fold_in(data_key, np.uint32(2**32 - 1)), step)
  if data_parallel == 1:
    return key
  return shard(jax.random.split(key, data_parallel), data_parallel)[0]
