"""What a run is made of: its numbers, and the network and optimiser that they are given to."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.sweep.config.grid import Run, Settings
from rnn_jax.cells import make_cell
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import shard
from rnn_jax.training import make_optimizer
from rnn_jax.types import Array


class Numbers(NamedTuple):
  """What may differ between the runs of a group: traced, so that they share a program."""

  seed: Any
  truncation: Any
  learning_rate: Any
  clip_norm: Any
  recurrent_gain: Any
  forget_bias: Any


def network(
  cell: str,
  depth: int,
  hidden_size: int,
  output_size: int,
  vocabulary_size: int | None,
  **options: Any,
) -> DeepRNN:
  """The model of a run; `options` are those of its cell."""
  cells = [make_cell(cell, hidden_size, **options)] * depth
  return DeepRNN(cells, output_size, vocabulary_size)


def numbers_of(run: Run, settings: Settings) -> Numbers:
  """What the run's program is given."""
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
  """The optimiser of a run of a group, with these numbers."""
  rate, limit = numbers.learning_rate, numbers.clip_norm
  return make_optimizer(settings.optimizer, rate, limit, run.clip_by)


def time_options(run: Run, numbers: Numbers) -> dict[str, Any]:
  """What a run of a group asks of the time loop, as `update` takes it."""
  limit = numbers.clip_norm if run.clip_by == "carry" else None
  return {"truncation": numbers.truncation, "clip_carry": limit}


def mask_key(data_key: Array, step: Any, data_parallel: int = 1) -> Array:
  """Draws the masks of stochastic cells at a step; each device that shares a batch has its own."""
  # A batch is drawn from the data key and its step, which is below 2³¹.
  key = jax.random.fold_in(jax.random.fold_in(data_key, np.uint32(2**32 - 1)), step)
  if data_parallel == 1:
    return key
  return shard(jax.random.split(key, data_parallel), data_parallel)[0]
