"""Builds and compiles the program of a group, which trains the group's runs on all devices.

The runs of a group differ only in numeric settings (seed, truncation, learning rate, …), which are
arguments of the program. A device trains one run, or several by `vmap`. Neighboring devices may
train the same runs, each on its share of every batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key, PyTree

from experiments.runtime import memory
from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.run_tasks import RunTasks
from experiments.sweep.config.runs import Run, Settings
from experiments.sweep.measures.measure import Moment, Variables, by_leaf
from experiments.sweep.measures.table import MEASURES
from experiments.sweep.records.record import Record
from experiments.sweep.training.run_setup import (
  Numbers,
  estimator_key,
  estimator_of,
  flossed,
  initial_options,
  initial_params,
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  penalty_of,
  time_options,
)
from rnn_jax import loss_scaling
from rnn_jax.clipping import was_clipped
from rnn_jax.losses import accuracy, masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs, psum, shard, spread
from rnn_jax.tasks import Batch
from rnn_jax.training import TrainState, init_state, update
from rnn_jax.types import Array, Params

# Training steps in one call of a program. They are enough to make the cost of the call negligible,
# but few enough to report progress often.
CHUNK = 50

# An evaluation uses as few batches as hold this number of sequences. Its cost is that of about
# 10 training steps for batches of 32.
_HELD_OUT = 1024
_HELD_OUT_SEED = 2**32 - 1  # larger than any run's seed


class Program(NamedTuple):
  """The compiled program of a group, for `train_round`.

  Attributes:
    advance: `(numbers, state, data) -> (state, records)`, compiled for all devices; trains `CHUNK`
      steps. Numbers and state must be laid out on the devices by `spread`.
    initial_state: the state to start from, leaves [devices, ...]. It is all zeros, because the
      program itself initializes the params at step 0.
    record: shapes of the records that one call returns for one run, leaves [CHUNK, ...].
    leading_axes: shape of the leading axes of per-run arrays; see `Layout.leading_axes`.
  """

  advance: Callable[..., tuple[TrainState, Record]]
  initial_state: TrainState
  record: Record
  leading_axes: tuple[int, ...]

  @property
  def runs_per_round(self) -> int:
    """Returns the number of slots, which is the maximum number of runs in a round."""
    return math.prod(self.leading_axes)


def compile_group(
  runs: Sequence[Run], settings: Settings, tasks: RunTasks, layout: Layout, remat: str = "none"
) -> Program:
  """Compiles the program of the runs of one group.

  Args:
    runs: all runs of the sweep in this group. Include finished runs and runs that other processes
      train, because the number of runs decides how many a device trains at a time, which affects
      how records are rounded.
    settings: settings of the sweep.
    tasks: the tasks of the group's runs.
    layout: how runs are laid out on the devices.
    remat: what the backward pass recomputes instead of storing it; see `unroll`.
  Raises:
    ValueError: if the program does not fit into this machine's memory.
  """
  leading = layout.leading_axes(len(runs))
  advance, shapes = group_function(
    runs[0], settings, tasks, layout.data_parallel, math.prod(leading[1:]), remat
  )
  devices = layout.devices
  initial_state = jax.tree.map(lambda a: np.zeros((len(devices), *a.shape), a.dtype), shapes)
  numbers = by_device([runs[0]] * math.prod(leading), layout, leading)
  lowered = map_runs(advance, devices).lower(*spread((numbers, initial_state), devices), tasks.data)
  _, records = lowered.out_info
  record = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[len(leading) :], a.dtype), records)
  compiled = lowered.compile()
  if devices[0].platform == "cpu":  # on accelerators, XLA checks the memory itself
    here = [device for device in devices if device.process_index == jax.process_index()]
    memory.check_program(compiled, len(here), _advice(runs[0], len(here), remat))
  return Program(compiled, initial_state, record, leading)


def _advice(run: Run, devices: int, remat: str) -> str:
  """Returns how to reduce the memory of a run's program, as a sentence."""
  return (
    ("Pass --remat=sqrt, or lower" if remat == "none" else "Lower")
    + f" --sequence_length ({run.sequence_length}), --batch_size ({run.batch_size}) "
    f"or the hidden size ({run.width})" + (", or use fewer --devices." if devices > 1 else ".")
  )


def by_device(runs: Sequence[Run], layout: Layout, leading_axes: tuple[int, ...]) -> Numbers:
  """Returns the runs' numeric settings, leaves [devices] or [devices, runs per device].

  Devices that share a run's batch have equal entries.
  """
  return jax.tree.map(
    lambda a: np.repeat(a.reshape(leading_axes), layout.data_parallel, axis=0),
    stack_numbers(runs),
  )


def stack_numbers(runs: Sequence[Run]) -> Numbers:
  """Returns the runs' numeric settings as one `Numbers`, leaves [runs]."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *map(numbers_of, runs))


def group_function(
  run: Run,
  settings: Settings,
  tasks: RunTasks,
  data_parallel: int,
  together: int,
  remat: str,
) -> tuple[Callable[..., tuple[TrainState, Record]], TrainState]:
  """Builds the function that `compile_group` compiles for a group.

  Args:
    run: any run of the group.
    settings: settings of the sweep.
    tasks: the tasks of the group's runs.
    data_parallel: number of devices that share a batch.
    together: number of runs that a device trains at a time.
    remat: see `compile_group`.
  Returns:
    (function, shapes of the function's state on one device). The function is `(numbers, state,
    data) -> (state, records)` and does `CHUNK` iterations of a training step; iterations past the
    last step do nothing. If the state's step is 0, the function first initializes the state, so
    that a group needs no second program. If `together` is above 1, all leaves have a leading axis
    of runs, except the state's step and `data`.
  """
  model = network(run, tasks.train.output_size, tasks.train.vocabulary_size)
  group = _Group(run, settings, tasks, model, data_parallel, remat)
  # Without `jit`, each of these functions would be traced twice: as a branch of a `cond`, and by
  # `eval_shape`, which gives the shapes of the NaN arrays that the other branch returns.
  measure = jax.jit(functools.partial(_measure, group))
  evaluate = jax.jit(functools.partial(_evaluate, group))
  train_step = jax.jit(functools.partial(_train_step, group, measure, evaluate))
  advance = functools.partial(_advance, group, train_step)
  start = functools.partial(_start, group)
  numbers = stack_numbers([run] * together)
  if together == 1:
    return advance, jax.eval_shape(start, jax.tree.map(lambda a: a[0], numbers), tasks.data)
  # The runs of a device are at the same step, so `vmap` need not map over the step. If it did, each
  # `cond` would compute both of its branches, and so the measures at every step and the
  # initialization in every call. (`axes` is a TrainState because `vmap` requires the same type as
  # that of the argument.)
  axes = TrainState(step=None, params=0, opt_state=0)
  shapes = jax.eval_shape(jax.vmap(start, (0, None), axes), numbers, tasks.data)
  return jax.vmap(advance, (0, axes, None), (axes, 0)), shapes


class _Group(NamedTuple):
  """The constants of a group's program, which all runs of the group share.

  Attributes:
    run: any run of the group.
    settings: settings of the sweep.
    tasks: the tasks of the group's runs.
    model: the runs' network. Its recurrent gain and forget bias are the defaults, since they matter
      only at initialization.
    data_parallel: number of devices that share a batch.
    remat: see `compile_group`.
  """

  run: Run
  settings: Settings
  tasks: RunTasks
  model: DeepRNN
  data_parallel: int
  remat: str

  def mean(self, values: Float[Array, "*axes examples"]) -> Float[Array, "*axes"]:
    """Returns the mean over the whole batch, given the values of this device's examples."""
    total = psum(jnp.sum(values, axis=-1), count=self.data_parallel)
    return total / self.run.batch_size


def _start(group: _Group, numbers: Numbers, data: PyTree) -> TrainState:
  """Returns the train state of a run at step 0, with params drawn from the run's seed."""
  run, task = group.run, group.tasks.train
  params_key, data_key = jax.random.split(jax.random.key(numbers.seed))
  training, _ = data
  xs = task.batch(training, data_key).xs
  options = initial_options(run, numbers)
  model = network(run, task.output_size, task.vocabulary_size, **options)
  state = init_state(model, optimizer_of(run, numbers), params_key, xs)
  params = initial_params(run, model, state.params, xs, params_key)
  if run.flossing_steps:
    draw = functools.partial(task.batch, training)
    params = flossed(run, numbers, model, params, draw, data_key)
  return TrainState(state.step, params, state.opt_state)


def _measure(
  group: _Group, numbers: Numbers, params: Params, loss_scale: Array | float, batch: Batch
) -> dict[str, Variables]:
  """Computes the sweep's measures at a step.

  `batch` is the whole batch, even if devices share it. `loss_scale` is that of the step's update.
  """
  share = shard(batch, group.data_parallel)
  moment = Moment(
    group.model,
    params,
    group.tasks.train,
    batch,
    share,
    estimator_of(group.run, numbers),
    group.mean,
    group.run.dtype,
    loss_scale,
  )
  return {name: MEASURES[name].of(moment) for name in group.settings.measure_names}


def _evaluate(group: _Group, params: Params, held_out: PyTree) -> dict[str, Array]:
  """Computes the loss on held-out data and, for tasks with classes, the accuracy.

  All runs are evaluated on the same batches, which do not depend on their seeds. Dropout and
  zoneout are off.

  Args:
    group: the group.
    params: the params.
    held_out: arrays from which batches are drawn, of any length.
  Returns:
    {name: scalar}: `held_out_loss` and `held_out_accuracy` at the run's own sequence length, and
    with the suffix `_T` at every other length T.
  """
  count = math.ceil(_HELD_OUT / group.run.batch_size)

  def scores(length: int, i: Array) -> dict[str, Array]:
    task = group.tasks.tests[length]
    whole = task.batch(held_out, jax.random.fold_in(jax.random.key(_HELD_OUT_SEED), i))
    batch = shard(whole, group.data_parallel)
    outputs: Any
    _, outputs = group.model.apply({"params": params}, batch.xs)
    values = {"held_out_loss": task.loss(outputs, batch.targets)}
    if jnp.issubdtype(batch.targets.dtype, jnp.integer):
      values["held_out_accuracy"] = accuracy(outputs, batch.targets)
    number = jnp.sum(whole.mask)
    shares = {name: masked_mean(value, batch.mask, number) for name, value in values.items()}
    return psum(shares, count=group.data_parallel)

  found: dict[str, Array] = {}
  for length in group.tasks.tests:
    means = jax.lax.map(functools.partial(scores, length), jnp.arange(count))
    suffix = "" if length == group.run.sequence_length else f"_{length}"
    found |= {name + suffix: jnp.mean(value) for name, value in means.items()}
  return found


def _train_step(
  group: _Group,
  measure: Callable[[Numbers, Params, Array | float, Batch], dict[str, Variables]],
  evaluate: Callable[[Params, PyTree], dict[str, Array]],
  numbers: Numbers,
  data_key: Key[Array, ""],
  state: TrainState,
  data: PyTree,
) -> tuple[TrainState, Record]:
  """Takes one training step of a run; returns the new state and the step's record.

  `measure` and `evaluate` are `_measure` and `_evaluate` with their first argument bound. They run
  only at steps that are measured or evaluated.
  """
  run, settings, task = group.run, group.settings, group.tasks.train
  training, held_out = data
  # Each device draws the whole batch, so that an example depends only on the key, not on the number
  # of devices that share the batch.
  whole = task.batch(training, jax.random.fold_in(data_key, state.step))
  is_last = state.step == run.steps
  due = (state.step % settings.measure_every == 0) | is_last
  scaling = loss_scaling.state_of(state.opt_state)
  now = numbers, state.params, 1.0 if scaling is None else scaling.scale, whole
  missing = _missing(jax.eval_shape(measure, *now))
  measured = jax.lax.cond(due, lambda: measure(*now), lambda: missing)
  every = settings.evaluate_every
  due = is_last if every is None else (state.step % every == 0) | is_last
  unknown = _missing(jax.eval_shape(evaluate, state.params, held_out))
  evaluated = jax.lax.cond(due, lambda: evaluate(state.params, held_out), lambda: unknown)
  optimizer, options = optimizer_of(run, numbers), time_options(run, numbers)
  options["remat"] = group.remat
  options["key"] = mask_key(data_key, state.step, group.data_parallel)
  if "estimator" in options:
    options["estimator_key"] = estimator_key(data_key, state.step, group.data_parallel)
  options["penalty"] = penalty_of(run, numbers, group.model, task.loss)
  batch = shard(whole, group.data_parallel)
  total = functools.partial(psum, count=group.data_parallel)
  new, _, metrics = update(group.model, optimizer, task.loss, state, batch, psum=total, **options)
  norms = by_leaf(
    "log10_grad_norm", jax.tree.map(lambda a: group.mean(jnp.log10(a)), metrics.norms)
  )
  if options["clip_carry"] is not None:
    clipped = jnp.stack(was_clipped(metrics.norms, options["clip_carry"]))
    norms["clipped_share"] = group.mean(clipped.astype(metrics.loss.dtype))
  finite = _all_finite((metrics.loss, metrics.grad_norm, new.params))
  if metrics.skipped is not None:
    # An update that dynamic loss scaling has skipped is no divergence. Only its gradient is not
    # finite, because of the scale; the params are those from before.
    finite |= metrics.skipped & jnp.isfinite(metrics.loss)
  scalars = metrics.loss, metrics.grad_norm, metrics.clipped_norm, metrics.clipped, finite
  return new, Record(*scalars, norms, measured, evaluated)


def _advance(
  group: _Group,
  train_step: Callable[[Numbers, Array, TrainState, PyTree], tuple[TrainState, Record]],
  numbers: Numbers,
  state: TrainState,
  data: PyTree,
) -> tuple[TrainState, Record]:
  """Trains one run for `CHUNK` steps; first initializes its state if the step is 0."""
  _, data_key = jax.random.split(jax.random.key(numbers.seed))
  state = jax.lax.cond(state.step == 0, lambda: _start(group, numbers, data), lambda: state)

  def train(state: TrainState) -> tuple[TrainState, Record]:
    return train_step(numbers, data_key, state, data)

  def skip(state: TrainState) -> tuple[TrainState, Record]:
    return state, _missing(jax.eval_shape(train, state)[1])

  def body(
    old: tuple[TrainState, Bool[Array, ""]], _: None
  ) -> tuple[tuple[TrainState, Bool[Array, ""]], Record]:
    state, finite = old
    new, record = jax.lax.cond(state.step <= group.run.steps, train, skip, state)
    # A run that has diverged keeps its params and optimizer state from before the diverged step,
    # for the host to read. Its step counter still advances with those of the other runs.
    finite = finite & record.finite
    kept = jax.tree.map(functools.partial(jnp.where, finite), new, state)
    return (kept.replace(step=new.step), finite), record

  (state, _), records = jax.lax.scan(body, (state, jnp.ones((), bool)), length=CHUNK)
  return state, records


def _missing(shapes: PyTree) -> PyTree[Array]:
  """Returns arrays of the given shapes and dtypes, filled with NaN (True for bool)."""
  return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def _all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
