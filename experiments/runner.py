"""Trains the runs of one group: one compiled program, one run a device at a time."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.grid import Run, Settings, logged_steps
from rnn_jax.cells import make_cell
from rnn_jax.gradient_flow import lag_profile
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs
from rnn_jax.tasks import Task
from rnn_jax.training import TrainState, init_state, make_optimizer, update
from rnn_jax.types import Array, Carry

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
    norms: by carry leaf, [layer, time]: log₁₀ ‖dL/dh_t‖ of an example's own training loss, mean
      over the batch (the logarithm of the geometric mean).
    lags: by carry leaf, [layer, lag]: log₁₀ ‖∂L_T/∂h_{T−k}‖ of the loss at the last step, likewise;
      measured at logged steps only.
  """

  loss: Array
  grad_norm: Array
  norms: dict[str, Array]
  lags: dict[str, Array]


@dataclasses.dataclass
class Result:
  """A run that has ended.

  Attributes:
    run: which.
    records: with a leading axis: loss and grad_norm one entry a step, norms and lags one a logged
      step, from 0 to the last, or to the one that diverged.
    diverged_step: the step whose loss or gradient norm was not finite; None if there was none.
    seconds: wall clock of its round, compilation excepted.
  """

  run: Run
  records: Record
  diverged_step: int | None
  seconds: float


class Program(NamedTuple):
  """What `compile_group` makes for `train_group`.

  Attributes:
    advance: `(numbers, state, data) -> (state, records)`, compiled, one run a device.
    blanks: the state to begin with.
  """

  advance: Callable[..., tuple[TrainState, Record]]
  blanks: TrainState


def compile_group(
  runs: Sequence[Run], settings: Settings, task: Task, devices: Sequence[Any]
) -> Program:
  """Compiles the program of the runs of one (cell, depth); arguments as in `train_group`."""
  advance, blank = _program(runs[0], settings, task)
  blanks = jax.tree.map(lambda a: np.zeros((len(devices), *a.shape), a.dtype), blank)
  numbers = _stack([runs[0]] * len(devices), settings)
  return Program(map_runs(advance, devices).lower(numbers, blanks, task.data).compile(), blanks)


def train_group(
  program: Program,
  runs: Sequence[Run],
  settings: Settings,
  task: Task,
  devices: Sequence[Any],
  on_records: Callable[[Run, int, Record], None],
) -> Iterator[Result]:
  """Trains runs of one (cell, depth), as many at a time as there are devices.

  A run's records do not depend on the other runs, nor on the number of devices.

  Args:
    program: of the group, from `compile_group`.
    runs: all of one cell and depth.
    settings: of the sweep.
    task: built from the settings.
    devices: where; one run a device.
    on_records: called with (run, first step, records of some steps from there) as they come.
  Yields:
    Each run's result, as its round of runs ends.
  """
  for first in range(0, len(runs), len(devices)):
    batch = list(runs[first : first + len(devices)])
    # Devices without a run of their own repeat the first one; its copies are dropped.
    numbers = _stack(batch + [batch[0]] * (len(devices) - len(batch)), settings)
    begin, last = time.monotonic(), settings.steps // _CHUNK * _CHUNK
    state, ahead = program.advance(numbers, program.blanks, task.data)
    parts: list[list[Record]] = [[] for _ in batch]
    diverged: list[int | None] = [None] * len(batch)
    for step in range(0, last + 1, _CHUNK):
      records = jax.device_get(ahead)
      if step < last:  # the devices go on while records are written
        state, ahead = program.advance(numbers, state, task.data)
      for i, run in enumerate(batch):
        if diverged[i] is None:
          part = _of_device(records, i, step, settings)
          diverged[i] = _divergence(part, step)
          parts[i].append(part)
          on_records(run, step, part)
      if None not in diverged:
        break
    seconds = time.monotonic() - begin
    for run, chunks, bad in zip(batch, parts, diverged, strict=True):
      yield Result(run, jax.tree.map(lambda *a: np.concatenate(a), *chunks), bad, seconds)


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
  run: Run, settings: Settings, task: Task
) -> tuple[Callable[..., tuple[TrainState, Record]], TrainState]:
  """The function that a group compiles, and the shapes of its state.

  `(numbers, state, data) -> (state, records)` runs `_CHUNK` iterations, those past the last step
  excepted. A state at step 0 is initialised there, so that a group needs no second program.
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

  def lags(params: Any, xs: Array, targets: Array) -> dict[str, Array]:
    variables = {"params": params}
    apply: Callable[..., Any] = functools.partial(model.apply, variables)

    def last_loss(y: Array) -> Array:
      return task.loss(apply(y, method="readout"), targets[-1])

    encoded = apply(xs, method="encode")
    profile = lag_profile(model.cells, model.cell_params(variables), encoded, last_loss)
    return _by_leaf(jax.tree.map(lambda a: jnp.mean(a, axis=1), profile))

  def advance(numbers: Numbers, state: TrainState, data: Any) -> tuple[TrainState, Record]:
    _, data_key = jax.random.split(jax.random.key(numbers.seed))
    optimizer = optimizer_of(numbers)
    state = jax.lax.cond(state.step == 0, lambda: start(numbers, data), lambda: state)

    def live(state: TrainState) -> tuple[TrainState, Record]:
      batch = task.batch(data, jax.random.fold_in(data_key, state.step))
      logged = (state.step % settings.log_every == 0) | (state.step == settings.steps)

      def measure() -> dict[str, Array]:
        return lags(state.params, batch.xs, batch.targets)

      measured = jax.lax.cond(logged, measure, lambda: _missing(jax.eval_shape(measure)))
      new, _, metrics = update(
        model, optimizer, task.loss, state, batch, truncation=numbers.truncation
      )
      norms = _by_leaf(jax.tree.map(lambda a: jnp.mean(jnp.log10(a), axis=1), metrics.norms))
      return new, Record(metrics.loss, metrics.grad_norm, norms, measured)

    def over(state: TrainState) -> tuple[TrainState, Record]:
      return state, _missing(jax.eval_shape(live, state)[1])

    def body(state: TrainState, _: None) -> tuple[TrainState, Record]:
      return jax.lax.cond(state.step <= settings.steps, live, over, state)

    return jax.lax.scan(body, state, length=_CHUNK)

  blank = jax.eval_shape(start, jax.tree.map(lambda a: a[0], _stack([run], settings)), task.data)
  return advance, blank


def _missing(shapes: Any) -> Any:
  return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def _by_leaf(layers: Sequence[Carry]) -> dict[str, Array]:
  """[layer, time] for each leaf of the carry, by its name; `hidden` where there is just one."""
  named = [layer._asdict() if hasattr(layer, "_asdict") else {"hidden": layer} for layer in layers]
  return {name: jnp.stack([layer[name] for layer in named]) for name in named[0]}


def _of_device(records: Record, i: int, first_step: int, settings: Settings) -> Record:
  """Device i's share of a chunk: its steps up to divergence or the last, norms where logged."""
  steps = np.arange(first_step, min(first_step + _CHUNK, settings.steps + 1))
  finite = np.isfinite(records.loss[i]) & np.isfinite(records.grad_norm[i])
  steps = steps[: len(steps) if finite[: len(steps)].all() else np.argmin(finite) + 1]
  logged = np.flatnonzero(np.isin(steps, logged_steps(settings)))
  norms, lags = jax.tree.map(lambda a: a[i, logged], (records.norms, records.lags))
  return Record(records.loss[i, : len(steps)], records.grad_norm[i, : len(steps)], norms, lags)


def _divergence(records: Record, first_step: int) -> int | None:
  """The step of the last record, if it is not finite."""
  last = records.loss[-1], records.grad_norm[-1]
  return None if np.isfinite(last).all() else first_step + len(records.loss) - 1
