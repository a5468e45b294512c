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

from experiments.grid import Run, Settings, recorded_steps
from experiments.measures import MEASURES, Moment, by_leaf
from rnn_jax.cells import make_cell
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs, psum, shard
from rnn_jax.tasks import Task
from rnn_jax.training import TrainState, init_state, make_optimizer, update
from rnn_jax.types import Array

# Iterations in one call: enough to hide the cost of a call, few enough to show progress.
_CHUNK = 50


class Numbers(NamedTuple):
  """What may differ between the runs of a group: traced, so that they share a program."""

  seed: Any
  truncation: Any
  learning_rate: Any
  clip_norm: Any
  recurrent_gain: Any
  forget_bias: Any


class Record(NamedTuple):
  """What is recorded at one step, before its update.

  Attributes:
    loss: mean training loss of the step's batch.
    grad_norm: global gradient norm before clipping.
    norms: `log10_grad_norm` and the like for other leaves of the carry, [layer, time]: log₁₀
      ‖dL/dh_t‖ of an example's own training loss, mean over the batch (the logarithm of the
      geometric mean).
    measures: for each measure of the sweep, its variables; NaN where the step is not measured.
  """

  loss: Array
  grad_norm: Array
  norms: dict[str, Array]
  measures: dict[str, dict[str, Array]]


@dataclasses.dataclass
class Result:
  """A run that has ended.

  Attributes:
    run: which.
    records: with a leading axis: loss and grad_norm one entry a step, norms and measures one a
      recorded step, from 0 to the last, or to the one that diverged.
    diverged_step: the step whose loss or gradient norm was not finite; None if there was none.
    seconds: wall clock of its round, compilation excepted.
  """

  run: Run
  records: Record
  diverged_step: int | None
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
  """Compiles the program of the runs of one (cell, depth); arguments as in `train_group`."""
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
  """Trains runs of one (cell, depth), as many at a time as the devices take.

  A run's records do not depend on the other runs, nor on the number of devices; on how many devices
  share a batch, and on how many runs a device has at a time, only as far as rounding goes.

  Args:
    program: of the group, from `compile_group`.
    runs: all of one cell and depth.
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
    for step in range(0, last + 1, _CHUNK):
      records = by_run(ahead)
      # The devices go on while records are written, but one call at a time: were there more, those
      # that share a batch could wait for each other for ever.
      if step < last:
        state, ahead = program.advance(numbers, state, task.data)
      for i, run in enumerate(batch):
        if diverged[i] is None:
          part = _of_run(records, i, step, settings)
          diverged[i] = _divergence(part, step)
          parts[i].append(part)
          on_records(run, step, part)
      if None not in diverged:
        break
    seconds = time.monotonic() - begin
    for run, chunks, bad in zip(batch, parts, diverged, strict=True):
      yield Result(run, jax.tree.map(lambda *a: np.concatenate(a), *chunks), bad, seconds)


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

  def of(run: Run) -> Numbers:
    full = settings.sequence_length
    return Numbers(
      np.uint32(run.seed),
      np.int32(full if run.truncation is None else min(run.truncation, full)),
      np.float32(run.learning_rate),
      np.float32(np.inf if run.clip_norm is None else run.clip_norm),
      np.float32(run.recurrent_gain),
      np.float32(0 if run.forget_bias is None else run.forget_bias),
    )

  return jax.tree.map(lambda *leaves: np.stack(leaves), *map(of, runs))


def _program(
  run: Run, settings: Settings, task: Task, data_parallel: int, together: int
) -> tuple[Callable[..., tuple[TrainState, Record]], TrainState]:
  """The function that a group compiles, and the shapes of its state on one device.

  `(numbers, state, data) -> (state, records)` runs `_CHUNK` iterations, those past the last step
  excepted. A state at step 0 is initialised there, so that a group needs no second program. All
  but the step has a leading axis where a device has several runs together.
  """

  def model_of(options: dict[str, Any]) -> DeepRNN:
    cell = make_cell(run.cell, settings.hidden_size, **options)
    return DeepRNN([cell] * run.depth, task.output_size, task.vocabulary_size)

  model = model_of({})

  def start(numbers: Numbers, data: Any) -> TrainState:
    options = {"recurrent_gain": numbers.recurrent_gain}
    if run.forget_bias is not None:
      options["forget_bias"] = numbers.forget_bias
    params_key, data_key = jax.random.split(jax.random.key(numbers.seed))
    xs = task.batch(data, data_key).xs
    return init_state(model_of(options), optimizer_of(numbers), params_key, xs)

  def optimizer_of(numbers: Numbers) -> Any:
    return make_optimizer(settings.optimizer, numbers.learning_rate, numbers.clip_norm)

  total = functools.partial(psum, count=data_parallel)

  def mean(values: Array) -> Array:
    """[..., examples] → [...], over the whole batch, of which a device may have a share."""
    return total(jnp.sum(values, axis=-1)) / settings.batch_size

  def advance(numbers: Numbers, state: TrainState, data: Any) -> tuple[TrainState, Record]:
    _, data_key = jax.random.split(jax.random.key(numbers.seed))
    optimizer = optimizer_of(numbers)
    state = jax.lax.cond(state.step == 0, lambda: start(numbers, data), lambda: state)

    def live(state: TrainState) -> tuple[TrainState, Record]:
      # Each device draws the whole batch: which examples it holds depends on the key alone.
      whole = task.batch(data, jax.random.fold_in(data_key, state.step))
      batch = shard(whole, data_parallel)
      moment = Moment(model, state.params, task, batch, mean)

      def measure() -> dict[str, dict[str, Array]]:
        return {name: MEASURES[name].compute(moment) for name in settings.measure_names}

      due = (state.step % settings.measure_every == 0) | (state.step == settings.steps)
      measured = jax.lax.cond(due, measure, lambda: _missing(jax.eval_shape(measure)))
      new, _, metrics = update(
        model, optimizer, task.loss, state, batch, psum=total, truncation=numbers.truncation
      )
      logs = jax.tree.map(lambda a: mean(jnp.log10(a)), metrics.norms)
      norms = by_leaf("log10_grad_norm", logs)
      return new, Record(metrics.loss, metrics.grad_norm, norms, measured)

    def over(state: TrainState) -> tuple[TrainState, Record]:
      return state, _missing(jax.eval_shape(live, state)[1])

    def body(state: TrainState, _: None) -> tuple[TrainState, Record]:
      return jax.lax.cond(state.step <= settings.steps, live, over, state)

    return jax.lax.scan(body, state, length=_CHUNK)

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
  return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def _of_run(records: Record, i: int, first_step: int, settings: Settings) -> Record:
  """Run i's share of a chunk: its steps up to divergence or the last, norms where logged."""
  steps = np.arange(first_step, min(first_step + _CHUNK, settings.steps + 1))
  finite = np.isfinite(records.loss[i]) & np.isfinite(records.grad_norm[i])
  steps = steps[: len(steps) if finite[: len(steps)].all() else np.argmin(finite) + 1]
  recorded = np.flatnonzero(np.isin(steps, recorded_steps(settings)))
  norms, measures = jax.tree.map(lambda a: a[i, recorded], (records.norms, records.measures))
  return Record(records.loss[i, : len(steps)], records.grad_norm[i, : len(steps)], norms, measures)


def _divergence(records: Record, first_step: int) -> int | None:
  """The step of the last record, if it is not finite."""
  last = records.loss[-1], records.grad_norm[-1]
  return None if np.isfinite(last).all() else first_step + len(records.loss) - 1
