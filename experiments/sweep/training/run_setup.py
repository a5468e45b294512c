"""Builds the parts of a run: numeric settings, network, optimizer, and arguments of `update`."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Key

from experiments.sweep.config.networks import make_cells
from experiments.sweep.config.runs import Run
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import shard
from rnn_jax.training import make_optimizer
from rnn_jax.types import Array


class Numbers(NamedTuple):
  """The numeric settings in which runs of a group may differ.

  They are traced arguments of the group's program, so that all runs of the group share the program.
  """

  seed: ArrayLike
  truncation: ArrayLike
  learning_rate: ArrayLike
  clip_norm: ArrayLike
  recurrent_gain: ArrayLike
  forget_bias: ArrayLike


def network(
  run: Run, output_size: int, vocabulary_size: int | None, **initialization: Any
) -> DeepRNN:
  """Builds the network of a run.

  Args:
    run: the run.
    output_size, vocabulary_size: the task's attributes of the same names.
    **initialization: cell options in addition to the run's own, such as `recurrent_gain`.
  """
  run = dataclasses.replace(run, options=(*run.options, *initialization.items()))
  return DeepRNN(make_cells(run), output_size, vocabulary_size, dropout=run.dropout)


def numbers_of(run: Run) -> Numbers:
  """Returns a run's numeric settings; a setting that is None becomes a number without effect."""
  full = run.sequence_length
  return Numbers(
    np.uint32(run.seed),
    np.int32(full if run.truncation is None else min(run.truncation, full)),
    np.float32(run.learning_rate),
    np.float32(np.inf if run.clip_norm is None else run.clip_norm),
    np.float32(1 if run.recurrent_gain is None else run.recurrent_gain),
    np.float32(0 if run.forget_bias is None else run.forget_bias),
  )


def optimizer_of(run: Run, numbers: Numbers) -> optax.GradientTransformation:
  """Builds the optimizer of the run whose numeric settings are `numbers`.

  `run` may be any run of the same group.
  """
  rate, limit = numbers.learning_rate, numbers.clip_norm
  return make_optimizer(run.optimizer, rate, limit, run.clip_by, run.loss_scale)


def time_options(run: Run, numbers: Numbers) -> dict[str, Any]:
  """Returns the arguments `truncation`, `clip_carry` and `dtype` of `rnn_jax.training.update`.

  Their values are those of the run whose numeric settings are `numbers`. `run` may be any run of
  the same group, because only its `clip_by` and `dtype` are read.
  """
  limit = numbers.clip_norm if run.clip_by == "carry" else None
  dtype = None if run.dtype == "float32" else run.dtype
  return {"truncation": numbers.truncation, "clip_carry": limit, "dtype": dtype}


def mask_key(data_key: Key[Array, ""], step: ArrayLike, data_parallel: int = 1) -> Key[Array, ""]:
  """Returns the key from which dropout and stochastic cells draw their masks at a step.

  Args:
    data_key: the run's key for drawing batches.
    step: the step.
    data_parallel: number of devices that share a batch; each device gets a key of its own.
  """
  # The key of a step's batch is fold_in(data_key, step). Steps are below 2³¹, so folding in 2³² − 1
  # gives a key that no batch uses.
  key = jax.random.fold_in(jax.random.fold_in(data_key, np.uint32(2**32 - 1)), step)
  if data_parallel == 1:
    return key
  return shard(jax.random.split(key, data_parallel), data_parallel)[0]
