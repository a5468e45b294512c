"""The program of a group: builds and compiles what its runs compute, for all devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key, PyTree

from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.runs import Run, Settings, hidden_size_of
from experiments.sweep.measures import MEASURES, Moment, Variables, by_leaf
from experiments.sweep.records.record import Record
from experiments.sweep.training.run_setup import (
  Numbers,
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  time_options,
)
from rnn_jax.clipping import was_clipped
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs, psum, shard, spread
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState, init_state, update
from rnn_jax.types import Array, Params

# Iterations in one call: enough to hide the cost of a call, few enough to show progress.
CHUNK = 50


class Program(NamedTuple):
  """The compiled program of a group, for `train_round`.

  Attributes:
    advance: `(numbers, state, data) -> (state, records)`, compiled for all devices; numbers and
      state must be `spread` over them.
    initial_state: the state to start from.
    record: shapes of one run's records of a call.
    leading_axes: leading axes of arrays that differ between the runs of a round.
  """

  advance: Callable[..., tuple[TrainState, Record]]
  initial_state: TrainState
  record: Record
  leading_axes: tuple[int, ...]

  @property
  def runs_per_round(self) -> int:
    """Returns the maximum number of runs in a round: the number of slots."""
    return math.prod(self.leading_axes)


def compile_group(runs: Sequence[Run], settings: Settings, task: Task, layout: Layout) -> Program:
  """Compiles the program of the runs of one group.

  Args:
    runs: all runs of the sweep with the same cell, options, depth and clip_by. Their number
      decides how many a device trains at a time, and thus how records are rounded, so include
      finished runs and those that are trained elsewhere.
    settings: settings of the sweep.
    task: built from the settings.
    layout: how runs are laid out on the devices.
  """
  leading = layout.leading_axes(len(runs))
  advance, shapes = group_function(
    runs[0], settings, task, layout.data_parallel, math.prod(leading[1:])
  )
  devices = layout.devices
  initial_state = jax.tree.map(lambda a: np.zeros((len(devices), *a.shape), a.dtype), shapes)
  numbers = by_device([runs[0]] * math.prod(leading), settings, layout, leading)
  lowered = map_runs(advance, devices).lower(*spread((numbers, initial_state), devices), task.data)
  _, records = lowered.out_info
  record = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[len(leading) :], a.dtype), records)
  return Program(lowered.compile(), initial_state, record, leading)


def by_device(
  runs: Sequence[Run], settings: Settings, layout: Layout, leading_axes: tuple[int, ...]
) -> Numbers:
  """Returns the runs' numbers, leaves [devices] or [devices, runs of a device]."""
  return jax.tree.map(
    lambda a: np.repeat(a.reshape(leading_axes), layout.data_parallel, axis=0),
    stack_numbers(runs, settings),
  )


def stack_numbers(runs: Sequence[Run], settings: Settings) -> Numbers:
  """Returns the runs' numbers, leaves [runs]."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *(numbers_of(r, settings) for r in runs))


def group_function(
  run: Run, settings: Settings, task: Task, data_parallel: int, together: int
) -> tuple[Callable[..., tuple[TrainState, Record]], TrainState]:
  """Builds the function that a group compiles.

  Args:
    run: any run of the group.
    settings: settings of the sweep.
    task: built from the settings.
    data_parallel: number of devices that share a batch.
    together: number of runs that a device trains at a time.
  Returns:
    (function, shapes of its state on one device). The function is `(numbers, state, data) ->
    (state, records)` and runs `CHUNK` iterations; those past the last step do nothing. It
    initializes a state at step 0, so that a group needs no second program. With several runs
    together, all leaves but the step have a leading axis of runs.
  """
  group = _Group(run, settings, task, _model(run, settings, task), data_parallel)
  # `jit` traces both only once, although each `cond` also asks for the shapes of its other branch.
  measure = jax.jit(functools.partial(_measure, group))
  train_step = jax.jit(functools.partial(_train_step, group, measure))
  advance = functools.partial(_advance, group, train_step)
  start = functools.partial(_start, group)
  numbers = stack_numbers([run] * together, settings)
  if together == 1:
    return advance, jax.eval_shape(start, jax.tree.map(lambda a: a[0], numbers), task.data)
  # The runs of a device are at the same step. If the step were mapped too, each `cond` would have
  # to compute both of its branches: the measures at every step, the initialization in every call.
  # (The axes stand in a TrainState because `vmap` wants the tree's own type.)
  axes = TrainState(step=None, params=0, opt_state=0)
  shapes = jax.eval_shape(jax.vmap(start, (0, None), axes), numbers, task.data)
  return jax.vmap(advance, (0, axes, None), (axes, 0)), shapes


class _Group(NamedTuple):
  """What all runs of a group have in common: constants of their program.

  Attributes:
    run: any run of the group.
    settings: settings of the sweep.
    task: built from the settings.
    model: the runs' network, with the default gain and bias instead of those of a run.
    data_parallel: number of devices that share a batch.
  """

  run: Run
  settings: Settings
  task: Task
  model: DeepRNN
  data_parallel: int

  def mean(self, values: Float[Array, "*axes examples"]) -> Float[Array, "*axes"]:
    """Returns the mean of values over the whole batch, which devices may share."""
    total = psum(jnp.sum(values, axis=-1), count=self.data_parallel)
    return total / self.settings.batch_size


def _model(run: Run, settings: Settings, task: Task, **initialization: Any) -> DeepRNN:
  """Builds the network of a run.

  Args:
    run: the run.
    settings: settings of the sweep.
    task: built from the settings.
    **initialization: cell options in addition to those of the run.
  """
  about = run.cell, run.depth, hidden_size_of(run, settings), task.output_size, task.vocabulary_size
  return network(*about, **{**dict(run.options), **initialization})


def _start(group: _Group, numbers: Numbers, data: PyTree) -> TrainState:
  """Initializes the state of a run."""
  run, settings, task = group.run, group.settings, group.task
  initialization = {}
  if run.recurrent_gain is not None:
    initialization["recurrent_gain"] = numbers.recurrent_gain
  if run.forget_bias is not None:
    initialization["forget_bias"] = numbers.forget_bias
  params_key, data_key = jax.random.split(jax.random.key(numbers.seed))
  xs = task.batch(data, data_key).xs
  model = _model(run, settings, task, **initialization)
  return init_state(model, optimizer_of(run, settings, numbers), params_key, xs)


def _measure(group: _Group, params: Params, batch: Batch) -> dict[str, Variables]:
  """Computes the sweep's measures on the whole batch of a step."""
  share = shard(batch, group.data_parallel)
  moment = Moment(group.model, params, group.task, batch, share, group.mean)
  return {name: MEASURES[name].of(moment) for name in group.settings.measure_names}


def _train_step(
  group: _Group,
  measure: Callable[[Params, Batch], dict[str, Variables]],
  numbers: Numbers,
  data_key: Key[Array, ""],
  state: TrainState,
  data: PyTree,
) -> tuple[TrainState, Record]:
  """Records one step of a run, and updates its params."""
  run, settings, task = group.run, group.settings, group.task
  # Each device draws the whole batch, so that an example depends on the key alone.
  whole = task.batch(data, jax.random.fold_in(data_key, state.step))
  due = (state.step % settings.measure_every == 0) | (state.step == settings.steps)
  missing = _missing(jax.eval_shape(measure, state.params, whole))
  measured = jax.lax.cond(due, lambda: measure(state.params, whole), lambda: missing)
  optimizer, options = optimizer_of(run, settings, numbers), time_options(run, numbers)
  options["key"] = mask_key(data_key, state.step, group.data_parallel)
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
  scalars = metrics.loss, metrics.grad_norm, metrics.clipped_norm, metrics.clipped, finite
  return new, Record(*scalars, norms, measured)


def _advance(
  group: _Group,
  train_step: Callable[[Numbers, Array, TrainState, PyTree], tuple[TrainState, Record]],
  numbers: Numbers,
  state: TrainState,
  data: PyTree,
) -> tuple[TrainState, Record]:
  """Runs `CHUNK` iterations of a run; see `group_function`."""
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
    new, record = jax.lax.cond(state.step <= group.settings.steps, train, skip, state)
    # A run that has diverged keeps the state before that step, for the host to read, while its
    # step counter advances with those of the other runs.
    finite = finite & record.finite
    kept = jax.tree.map(functools.partial(jnp.where, finite), new, state)
    return (kept.replace(step=new.step), finite), record

  (state, _), records = jax.lax.scan(body, (state, jnp.ones((), bool)), length=CHUNK)
  return state, records


def _missing(shapes: PyTree) -> PyTree[Array]:
  """Returns arrays of NaN (True for bool)."""
  return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def _all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
