"""The program of a group: what its runs compute, compiled for all devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sweep.config.grid import Run, Settings, width
from experiments.sweep.config.layout import Layout
from experiments.sweep.measures import MEASURES, Moment, by_leaf
from experiments.sweep.training.run_setup import (
  Numbers,
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  time_options,
)
from rnn_jax.clipping import was_clipped
from rnn_jax.parallel import map_runs, psum, shard, spread
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState, init_state, update
from rnn_jax.types import Array

# Iterations in one call: enough to hide the cost of a call, few enough to show progress.
CHUNK = 50


class Record(NamedTuple):
  """What is recorded at one step, before its update.

  Attributes:
    loss: mean training loss of the step's batch.
    grad_norm: global gradient norm before clipping.
    clipped_norm: global gradient norm after clipping.
    clipped: 1 where the gradient was clipped, else 0; with clip_by carry the share of all dL/dh_t
      that were. `clipped_share` among the norms says where in time.
    sound: whether loss, grad_norm and the updated params are finite.
    norms: `log10_grad_norm` and the like for other leaves of the carry, [layer, time]: log₁₀
      ‖dL/dh_t‖ of an example's own training loss, mean over the batch (the logarithm of the
      geometric mean).
    measures: for each measure of the sweep, its variables; NaN where the step is not measured.
  """

  loss: Array
  grad_norm: Array
  clipped_norm: Array
  clipped: Array
  sound: Array
  norms: dict[str, Array]
  measures: dict[str, dict[str, Array]]


class Program(NamedTuple):
  """What `compile_group` makes for `train_round`.

  Attributes:
    advance: `(numbers, state, data) -> (state, records)`, compiled, for all devices; numbers and
      state are `spread`.
    blanks: the state to begin with.
    record: shapes of one run's records of a call.
    lead: leading axes of what differs between the runs of a round.
  """

  advance: Callable[..., tuple[TrainState, Record]]
  blanks: TrainState
  record: Record
  lead: tuple[int, ...]

  @property
  def capacity(self) -> int:
    """Runs of a round, at most."""
    return math.prod(self.lead)


def compile_group(runs: Sequence[Run], settings: Settings, task: Task, layout: Layout) -> Program:
  """Compiles the program of the runs of one group.

  Args:
    runs: all of one cell with the same options, of one depth and way to clip. How many there are
      decides how many a device has at a time, and so how records are rounded: give all of the
      sweep, those too that have ended or are trained elsewhere.
    settings: of the sweep.
    task: built from the settings.
    layout: where.
  """
  lead = layout.leading_axes(len(runs))
  advance, blank = _program(runs[0], settings, task, layout.data_parallel, math.prod(lead[1:]))
  devices = layout.devices
  blanks = jax.tree.map(lambda a: np.zeros((len(devices), *a.shape), a.dtype), blank)
  numbers = by_device([runs[0]] * math.prod(lead), settings, layout, lead)
  lowered = map_runs(advance, devices).lower(*spread((numbers, blanks), devices), task.data)
  _, records = lowered.out_info
  record = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[len(lead) :], a.dtype), records)
  return Program(lowered.compile(), blanks, record, lead)


def by_device(
  runs: Sequence[Run], settings: Settings, layout: Layout, lead: tuple[int, ...]
) -> Numbers:
  """The runs' numbers, [devices], or [devices, runs of a device]."""
  return jax.tree.map(
    lambda a: np.repeat(a.reshape(lead), layout.data_parallel, axis=0), _stack(runs, settings)
  )


def _stack(runs: Sequence[Run], settings: Settings) -> Numbers:
  """The runs' numbers, with a leading axis of runs."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *(numbers_of(r, settings) for r in runs))


def _program(
  run: Run, settings: Settings, task: Task, data_parallel: int, together: int
) -> tuple[Callable[..., tuple[TrainState, Record]], TrainState]:
  """The function that a group compiles, and the shapes of its state on one device.

  `(numbers, state, data) -> (state, records)` runs `CHUNK` iterations, those past the last step
  excepted. A state at step 0 is initialised there, so that a group needs no second program. All
  but the step has a leading axis where a device has several runs together.
  """

  about = run.cell, run.depth, width(run, settings), task.output_size, task.vocabulary_size
  model = network(*about, **dict(run.options))

  def start(numbers: Numbers, data: Any) -> TrainState:
    options = dict(run.options)
    if run.recurrent_gain is not None:
      options["recurrent_gain"] = numbers.recurrent_gain
    if run.forget_bias is not None:
      options["forget_bias"] = numbers.forget_bias
    params_key, data_key = jax.random.split(jax.random.key(numbers.seed))
    xs = task.batch(data, data_key).xs
    start_of = network(*about, **options)
    return init_state(start_of, optimizer_of(run, settings, numbers), params_key, xs)

  total = functools.partial(psum, count=data_parallel)

  def mean(values: Array) -> Array:
    """[..., examples] → [...], over the whole batch, of which a device may have a share."""
    return total(jnp.sum(values, axis=-1)) / settings.batch_size

  # Under `jit` both are traced once, although each `cond` asks for its other branch's shapes too.

  @jax.jit
  def measure(params: Any, whole: Batch) -> dict[str, dict[str, Array]]:
    moment = Moment(model, params, task, whole, shard(whole, data_parallel), mean)
    return {name: MEASURES[name].of(moment) for name in settings.measure_names}

  @jax.jit
  def train(
    numbers: Numbers, data_key: Array, state: TrainState, data: Any
  ) -> tuple[TrainState, Record]:
    # Each device draws the whole batch: which examples it holds depends on the key alone.
    whole = task.batch(data, jax.random.fold_in(data_key, state.step))
    due = (state.step % settings.measure_every == 0) | (state.step == settings.steps)
    missing = _missing(jax.eval_shape(measure, state.params, whole))
    measured = jax.lax.cond(due, lambda: measure(state.params, whole), lambda: missing)
    optimizer, options = optimizer_of(run, settings, numbers), time_options(run, numbers)
    options["key"] = mask_key(data_key, state.step, data_parallel)
    batch = shard(whole, data_parallel)
    new, _, metrics = update(model, optimizer, task.loss, state, batch, psum=total, **options)
    logs = jax.tree.map(lambda a: mean(jnp.log10(a)), metrics.norms)
    norms = by_leaf("log10_grad_norm", logs)
    if options["clip_carry"] is not None:
      acted = jnp.stack(was_clipped(metrics.norms, options["clip_carry"]))
      norms["clipped_share"] = mean(acted.astype(metrics.loss.dtype))
    sound = _all_finite((metrics.loss, metrics.grad_norm, new.params))
    scalars = metrics.loss, metrics.grad_norm, metrics.clipped_norm, metrics.clipped, sound
    return new, Record(*scalars, norms, measured)

  def advance(numbers: Numbers, state: TrainState, data: Any) -> tuple[TrainState, Record]:
    _, data_key = jax.random.split(jax.random.key(numbers.seed))
    state = jax.lax.cond(state.step == 0, lambda: start(numbers, data), lambda: state)

    def live(state: TrainState) -> tuple[TrainState, Record]:
      return train(numbers, data_key, state, data)

    def over(state: TrainState) -> tuple[TrainState, Record]:
      return state, _missing(jax.eval_shape(live, state)[1])

    def body(old: tuple[TrainState, Array], _: None) -> tuple[tuple[TrainState, Array], Record]:
      state, sound = old
      new, record = jax.lax.cond(state.step <= settings.steps, live, over, state)
      # A run that has diverged keeps what it came with, for the host to look at. The steps go on.
      sound = sound & record.sound
      kept = jax.tree.map(functools.partial(jnp.where, sound), new, state)
      return (kept.replace(step=new.step), sound), record

    (state, _), records = jax.lax.scan(body, (state, jnp.ones((), bool)), length=CHUNK)
    return state, records

  numbers = _stack([run] * together, settings)
  if together == 1:
    return advance, jax.eval_shape(start, jax.tree.map(lambda a: a[0], numbers), task.data)
  # The runs of a device are in step. Were the step mapped too, each `cond` would have to compute
  # both of its branches: the lag profile at every step, the initialisation in every call. (Axes in
  # the place of arrays: `vmap` wants them in the tree's own type, which is declared for arrays.)
  axes = TrainState(step=None, params=0, opt_state=0)  # type: ignore[arg-type]
  blank = jax.eval_shape(jax.vmap(start, (0, None), axes), numbers, task.data)
  return jax.vmap(advance, (0, axes, None), (axes, 0)), blank


def _missing(shapes: Any) -> Any:
  """NaN, and True."""
  return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def _all_finite(tree: Any) -> Array:
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
