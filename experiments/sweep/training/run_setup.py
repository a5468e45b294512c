"""Builds the parts of a run: numbers, network, params, optimizer, and arguments of `update`."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Key

from experiments.sweep.config.networks import make_cells
from experiments.sweep.config.runs import Run
from rnn_jax.estimators import Estimator, make_estimator, tbptt
from rnn_jax.modules import DeepRNN
from rnn_jax.network_init import critical_gain, orthogonal_inputs, unit_variance
from rnn_jax.optimizers import learning_rate_schedule, make_optimizer
from rnn_jax.parallel import shard
from rnn_jax.penalties import flossing_penalty, minimize, omega_penalty, spectral_penalty
from rnn_jax.tasks import Batch
from rnn_jax.training import Loss, Penalty
from rnn_jax.types import Array, Params


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
  warmup: ArrayLike
  momentum: ArrayLike
  weight_decay: ArrayLike
  omega_penalty: ArrayLike
  spectral_penalty: ArrayLike
  flossing: ArrayLike
  flossing_steps: ArrayLike


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
    np.int32(run.warmup),
    np.float32(run.momentum),
    np.float32(run.weight_decay),
    np.float32(run.omega_penalty),
    np.float32(run.spectral_penalty),
    np.float32(run.flossing),
    np.int32(run.flossing_steps),
  )


def optimizer_of(run: Run, numbers: Numbers) -> optax.GradientTransformation:
  """Builds the optimizer of the run whose numeric settings are `numbers`.

  `run` may be any run of the same group.
  """
  rate: Any = numbers.learning_rate
  if run.schedule != "constant" or run.warmup:
    rate = learning_rate_schedule(run.schedule, rate, run.steps, numbers.warmup)
  return make_optimizer(
    run.optimizer,
    rate,
    numbers.clip_norm,
    run.clip_by,
    momentum=numbers.momentum if run.momentum else None,
    weight_decay=numbers.weight_decay if run.weight_decay else None,
    loss_scale=run.loss_scale,
  )


def initial_options(run: Run, numbers: Numbers) -> dict[str, Any]:
  """Returns the cell options that act only at initialization, for `network`.

  Args:
    run: the run, or any run of the same group.
    numbers: the run's numeric settings.
  """
  options: dict[str, Any] = {}
  if run.recurrent_gain is not None:
    options["recurrent_gain"] = numbers.recurrent_gain
  if run.forget_bias is not None:
    options["forget_bias"] = numbers.forget_bias
  if run.initialization == "critical":
    bias: Any = numbers.forget_bias
    gain = critical_gain(run.cell, forget_bias=bias, **dict(run.options))
    options["recurrent_gain"] = gain
  if run.initialization in ("unitary", "lsuv"):
    options["recurrent_kernel"] = "orthogonal"
  return options


def initial_params(
  run: Run, model: DeepRNN, params: Params, xs: Array, key: Key[Array, ""]
) -> Params:
  """Returns a network's initial params, after what the run's `initialization` changes.

  Args:
    run: any run of the group.
    model: the network, with the options of `initial_options`.
    params: the params from `model.init(key, xs)`.
    xs: a batch's inputs.
    key: the key of `model.init`.
  """
  if run.initialization not in ("unitary", "lsuv"):
    return params
  # Modules draw their params with keys that Flax folds names into.
  cells, layers, inputs = model.trunk({"params": params}, xs)
  layers = orthogonal_inputs(cells, layers, jax.random.fold_in(key, np.uint32(2**32 - 1)))
  if run.initialization == "lsuv":
    layers = unit_variance(cells, layers, inputs)
  names = [f"layers_{i}" for i in range(len(cells))]
  pairs = zip(names, layers, strict=True)
  return {**params, **{name: {**params[name], "cell": own} for name, own in pairs}}


def penalty_of(run: Run, numbers: Numbers, model: DeepRNN, loss: Loss) -> Penalty | None:
  """Builds the sum of a run's penalties, for `rnn_jax.training.update`; None if it has none.

  Args:
    run: the run, or any run of the same group.
    numbers: the run's numeric settings.
    model: the run's network.
    loss: the task's loss.
  """
  parts: list[Penalty] = []
  if run.omega_penalty:
    parts.append(omega_penalty(model, loss, numbers.omega_penalty))
  if run.spectral_penalty:
    parts.append(spectral_penalty(model, numbers.spectral_penalty))
  if run.flossing:
    parts.append(flossing_penalty(model, numbers.flossing, run.flossing_exponents))
  if not parts:
    return None

  def penalty(params: Params, batch: Batch) -> Array:
    return functools.reduce(operator.add, (part(params, batch) for part in parts))

  return penalty


def estimator_of(run: Run, numbers: Numbers) -> Estimator:
  """Returns the gradient estimator of the run whose numeric settings are `numbers`.

  `run` may be any run of the same group.
  """
  if run.gradient == "bptt":
    return tbptt(jnp.asarray(numbers.truncation))
  return make_estimator(run.gradient)


def time_options(run: Run, numbers: Numbers) -> dict[str, Any]:
  """Returns the arguments `clip_carry` and `dtype`, and `truncation` or `estimator`, of `update`.

  Their values are those of the run whose numeric settings are `numbers`. `run` may be any run of
  the same group, because only its `clip_by` and `dtype` are read.
  """
  limit = numbers.clip_norm if run.clip_by == "carry" else None
  options = {"clip_carry": limit, "dtype": None if run.dtype == "float32" else run.dtype}
  if run.gradient == "bptt":
    return {**options, "truncation": numbers.truncation}
  return {**options, "estimator": estimator_of(run, numbers)}


def mask_key(data_key: Key[Array, ""], step: ArrayLike, data_parallel: int = 1) -> Key[Array, ""]:
  """Returns the key from which dropout and stochastic cells draw their masks at a step.

  Args:
    data_key: the run's key for drawing batches.
    step: the step.
    data_parallel: number of devices that share a batch; each device gets a key of its own.
  """
  return _own_key(data_key, np.uint32(2**32 - 1), step, data_parallel)


def estimator_key(
  data_key: Key[Array, ""], step: ArrayLike, data_parallel: int = 1
) -> Key[Array, ""]:
  """Returns the key from which the gradient estimator draws its numbers at a step.

  The arguments are those of `mask_key`.
  """
  return _own_key(data_key, np.uint32(2**32 - 2), step, data_parallel)


def _own_key(
  data_key: Key[Array, ""], purpose: np.uint32, step: ArrayLike, data_parallel: int
) -> Key[Array, ""]:
  # The key of a step's batch is fold_in(data_key, step). Steps are below 2³¹, so folding in a
  # larger number gives a key that no batch uses.
  key = jax.random.fold_in(jax.random.fold_in(data_key, purpose), step)
  if data_parallel == 1:
    return key
  return shard(jax.random.split(key, data_parallel), data_parallel)[0]


def flossed(
  run: Run,
  numbers: Numbers,
  model: DeepRNN,
  params: Params,
  draw: Callable[[Key[Array, ""]], Batch],
  data_key: Key[Array, ""],
) -> Params:
  """Returns the params after the run's steps of gradient flossing before training.

  The steps are those of Adam at the run's learning rate, without clipping, each on a batch that no
  step of training uses.

  Args:
    run, numbers, model: as for `penalty_of`.
    params: the initial params.
    draw: draws a batch from a key.
    data_key: the run's key for drawing batches.
  """
  # The key of a step's batch is fold_in(data_key, step), and masks and gradient estimators
  # have 2³² − 1 and 2³² − 2.
  key = jax.random.fold_in(data_key, np.uint32(2**32 - 3))
  return minimize(
    flossing_penalty(model, 1.0, run.flossing_exponents),
    make_optimizer("adam", numbers.learning_rate),
    params,
    lambda i: draw(jax.random.fold_in(key, i)),
    numbers.flossing_steps,
  )
