"""Trains the runs of one group with one compiled program, as many at a time as the devices take."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.grid import Run, Settings, recorded_steps, width
from experiments.measures import MEASURES, Moment, by_leaf
from experiments.run_parts import (
  Numbers,
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  time_options,
)
from rnn_jax.clipping import was_clipped
from rnn_jax.parallel import map_runs, psum, shard
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState, init_state, update
from rnn_jax.types import Array

# Iterations in one call: enough to hide the cost of a call, few enough to show progress.
_CHUNK = 50


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


class Snapshot(NamedTuple):
  """Where a run diverged, in NumPy arrays.

  Attributes:
    params, opt_state: before the update of the step that was not sound.
    batch: of that step.
  """

  params: Any
  opt_state: Any
  batch: Batch


@dataclasses.dataclass
class Result:
  """A run that has ended.

  Attributes:
    run: which.
    records: with a leading axis: loss and grad_norm one entry a step, norms and measures one a
      recorded step, from 0 to the last, or to the one that diverged.
    diverged_step: the step whose loss, gradient norm or updated params were not finite; None if
      there was none.
    snapshot: of that step; None if there was none.
    seconds: wall clock of its round, compilation excepted.
  """

  run: Run
  records: Record
  diverged_step: int | None
  snapshot: Snapshot | None
  seconds: float


class Layout(NamedTuple):
  """Where the runs of a group are trained.

  Attributes:
    devices: all in use.
    data_parallel: devices that share the batch of a run; must divide the batch size and the number
      of devices.
    runs_per_device: most runs that a device trains at a time, vectorised.
  """

  devices: Sequence[Any]
  data_parallel: int = 1
  runs_per_device: int = 1

  def lead(self, num_runs: int) -> tuple[int, ...]:
    """Leading axes of what differs between `num_runs` runs: [rows], or [rows, runs of a device].

    A row is of `data_parallel` devices, which have the same runs.
    """
    rows = len(self.devices) // self.data_parallel
    together = _runs_together(num_runs, rows, self.runs_per_device)
    return (rows,) if together == 1 else (rows, together)


class Program(NamedTuple):
  """What `compile_group` makes for `train_group`.

  Attributes:
    advance: `(numbers, state, data) -> (state, records)`, compiled, for all devices.
    blanks: the state to begin with.
  """

  advance: Callable[..., tuple[TrainState, Record]]
  blanks: TrainState


def compile_group(runs: Sequence[Run], settings: Settings, task: Task, layout: Layout) -> Program:
  """Compiles the program of the runs of one group; arguments as in `train_group`."""
  lead = layout.lead(len(runs))
  advance, blank = _program(runs[0], settings, task, layout.data_parallel, math.prod(lead[1:]))
  devices = layout.devices
  blanks = jax.tree.map(lambda a: np.zeros((len(devices), *a.shape), a.dtype), blank)
  numbers = _by_device([runs[0]] * math.prod(lead), settings, layout, lead)
  return Program(map_runs(advance, devices).lower(numbers, blanks, task.data).compile(), blanks)


def train_group(
  program: Program,
  runs: Sequence[Run],
  settings: Settings,
  task: Task,
  layout: Layout,
  on_records: Callable[[Run, int, Record], None],
) -> Iterator[Result]:
  """Trains runs of one group, as many at a time as the devices take.

  A run's records do not depend on the other runs, nor on the number of devices; on how many devices
  share a batch, and on how many runs a device has at a time, only as far as rounding goes.

  Args:
    program: of the group, from `compile_group`.
    runs: all of one cell with the same options, of one depth and way to clip.
    settings: of the sweep.
    task: built from the settings.
    layout: where.
    on_records: called with (run, first step, records of some steps from there) as they come.
  Yields:
    Each run's result, as its round of runs ends.
  """
  lead = layout.lead(len(runs))
  capacity = math.prod(lead)

  def by_run(records: Record) -> Record:
    """A chunk's records with a leading axis of runs; the devices that share one have the same."""
    return jax.tree.map(
      lambda a: a[:: layout.data_parallel].reshape(-1, *a.shape[len(lead) :]),
      jax.device_get(records),
    )

  for first in range(0, len(runs), capacity):
    batch = list(runs[first : first + capacity])
    # Places without a run of their own repeat the first one; its copies are dropped.
    everywhere = batch + [batch[0]] * (capacity - len(batch))
    numbers = _by_device(everywhere, settings, layout, lead)
    begin, last = time.monotonic(), settings.steps // _CHUNK * _CHUNK
    state, ahead = program.advance(numbers, program.blanks, task.data)
    parts: list[list[Record]] = [[] for _ in batch]
    diverged: list[int | None] = [None] * len(batch)
    states: list[tuple[Any, Any]] = [(None, None)] * len(batch)
    for step in range(0, last + 1, _CHUNK):
      records = by_run(ahead)
      new = {
        i: _of_run(records, i, step, settings) for i, bad in enumerate(diverged) if bad is None
      }
      for i, part in new.items():
        diverged[i] = bad = _divergence(part, step)
        if bad is not None:
          row, *place = np.unravel_index(i, lead)
          at = (int(row) * layout.data_parallel, *map(int, place))
          states[i] = _fetch((state.params, state.opt_state), at)
      # The devices go on while records are written, but one call at a time: were there more, those
      # that share a batch could wait for each other for ever.
      if step < last and None in diverged:
        state, ahead = program.advance(numbers, state, task.data)
      for i, part in new.items():
        parts[i].append(part)
        on_records(batch[i], step, part)
      if None not in diverged:
        break
    seconds = time.monotonic() - begin
    for run, chunks, bad, kept in zip(batch, parts, diverged, states, strict=True):
      snapshot = None if bad is None else Snapshot(*kept, _draw(run, bad, task))
      whole = jax.tree.map(lambda *a: np.concatenate(a), *chunks)
      yield Result(run, whole, bad, snapshot, seconds)


def _by_device(
  runs: Sequence[Run], settings: Settings, layout: Layout, lead: tuple[int, ...]
) -> Numbers:
  """The runs' numbers, [devices], or [devices, runs of a device]."""
  return jax.tree.map(
    lambda a: np.repeat(a.reshape(lead), layout.data_parallel, axis=0), _stack(runs, settings)
  )


def _runs_together(num_runs: int, rows: int, most: int) -> int:
  """Runs on one device at a time: at most `most`, in as few rounds as that takes, spread evenly."""
  rounds = math.ceil(num_runs / (rows * most))
  return math.ceil(num_runs / (rows * rounds))


def _stack(runs: Sequence[Run], settings: Settings) -> Numbers:
  """The runs' numbers, with a leading axis of runs."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *(numbers_of(r, settings) for r in runs))


def _program(
  run: Run, settings: Settings, task: Task, data_parallel: int, together: int
) -> tuple[Callable[..., tuple[TrainState, Record]], TrainState]:
  """The function that a group compiles, and the shapes of its state on one device.

  `(numbers, state, data) -> (state, records)` runs `_CHUNK` iterations, those past the last step
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

    (state, _), records = jax.lax.scan(body, (state, jnp.ones((), bool)), length=_CHUNK)
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


def _fetch(tree: Any, at: tuple[int, ...]) -> Any:
  """One run's share of what the devices hold; a copy, since the next call reuses their memory."""
  return jax.tree.map(lambda a: np.array(jax.device_get(a)[at]), tree)


def _draw(run: Run, step: int, task: Task) -> Batch:
  """The batch of a step."""
  _, data_key = jax.random.split(jax.random.key(np.uint32(run.seed)))
  return jax.device_get(jax.jit(task.batch)(task.data, jax.random.fold_in(data_key, step)))


def _of_run(records: Record, i: int, first_step: int, settings: Settings) -> Record:
  """Run i's share of a chunk: its steps up to divergence or the last, norms where logged."""
  steps = np.arange(first_step, min(first_step + _CHUNK, settings.steps + 1))
  sound = records.sound[i, : len(steps)]
  steps = steps[: len(steps) if sound.all() else np.argmin(sound) + 1]
  recorded = np.flatnonzero(np.isin(steps, recorded_steps(settings)))

  def rows(tree: Any, where: Any) -> Any:
    return jax.tree.map(lambda a: a[i, where], tree)

  every_step = rows(records._replace(norms={}, measures={}), slice(len(steps)))
  norms, measures = rows((records.norms, records.measures), recorded)
  return every_step._replace(norms=norms, measures=measures)


def _divergence(records: Record, first_step: int) -> int | None:
  """The step of the last record, if it is not sound."""
  return None if records.sound[-1] else first_step + len(records.sound) - 1
