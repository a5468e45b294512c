"""Trains runs of one group with their compiled program: a round, as many as the devices take."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.sweep.config.grid import Run, Settings, recorded_steps
from experiments.sweep.config.layout import Layout
from experiments.sweep.training.program import CHUNK, Program, Record, by_device
from rnn_jax.parallel import fetch, spread
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState


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
    seconds: wall clock of its round until then, compilation excepted.
  """

  run: Run
  records: Record
  diverged_step: int | None
  snapshot: Snapshot | None
  seconds: float


class Partial(NamedTuple):
  """A round that is not over: all that it takes to go on, in NumPy arrays.

  Randomness and data depend on a run's seed and on the step alone; each sequence begins with a
  carry of zeros.

  Attributes:
    step: the next one.
    params, opt_state: in front of it, leaves [runs, ...].
    records: of the steps before, leaves [runs, steps, ...], norms and measures where recorded.
      Those of a run that has diverged go on, and mean nothing from there.
    seconds: wall clock so far.
  """

  step: Any
  params: Any
  opt_state: Any
  records: Record
  seconds: Any


def partial_like(program: Program, settings: Settings, num_runs: int, step: int) -> Partial:
  """Shapes of what a round of so many runs has come to in front of a step."""
  recorded = sum(s < step for s in recorded_steps(settings))
  drop = len(program.lead)

  def shape(a: Any, *lead: int, drop: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*lead, *a.shape[drop:]), a.dtype)

  def rows(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda a: shape(a, num_runs, count, drop=1), tree)

  blanks = program.blanks.params, program.blanks.opt_state
  params, opt_state = jax.tree.map(lambda a: shape(a, num_runs, drop=drop), blanks)
  one = program.record
  records = rows(one._replace(norms={}, measures={}), step)
  records = records._replace(norms=rows(one.norms, recorded), measures=rows(one.measures, recorded))
  step_like, seconds = (jax.ShapeDtypeStruct((), dtype) for dtype in (np.int32, np.float64))
  return Partial(step_like, params, opt_state, records, seconds)


def train_round(
  program: Program,
  runs: Sequence[Run],
  settings: Settings,
  task: Task,
  layout: Layout,
  *,
  begun: Partial | None = None,
  on_records: Callable[[Run, int, Record], None] = lambda *_: None,
  on_call: Callable[[int, Callable[[], Partial]], None] = lambda *_: None,
) -> Iterator[Result]:
  """Trains runs of one group, `program.capacity` of them at most, at the same time.

  A run's records do not depend on the other runs, nor on the number of devices; on how many devices
  share a batch, and on how many runs a device has at a time, only as far as rounding goes. A round
  that goes on from a part of it ends as one that was not interrupted.

  Args:
    program: of the group, from `compile_group`.
    runs: which.
    settings: of the sweep.
    task: built from the settings.
    layout: where.
    begun: what an earlier round of these runs has come to; None to begin.
    on_records: called with (run, first step, records of some steps from there) as they come; those
      of `begun` first.
    on_call: called after each call of the program but the last, with the next step and a function
      that makes the part of the round that is over. It must be called at once or never.
  Yields:
    Each run's result: when it has diverged, or as the round ends.
  """
  numbers = by_device(_everywhere(runs, program), settings, layout, program.lead)
  numbers = spread(numbers, layout.devices)
  start = time.monotonic()
  state, first = program.blanks, 0
  parts: list[Record] = []
  if begun is not None:
    state, first = _by_place(begun, program, layout), int(begun.step)
    start -= float(begun.seconds)
    parts.append(begun.records)
    for i, run in enumerate(runs):
      on_records(run, 0, _of_run(begun.records, i, 0, settings))

  def seconds() -> float:
    return time.monotonic() - start

  def whole() -> Record:
    return jax.tree.map(lambda *a: np.concatenate(a, axis=1), *parts)

  def ended(i: int, bad: int | None, snapshot: Snapshot | None) -> Result:
    return Result(runs[i], _of_run(whole(), i, 0, settings), bad, snapshot, seconds())

  def partial(step: int) -> Partial:
    params, opt_state = _fetch((state.params, state.opt_state), len(runs), program, layout)
    return Partial(np.int32(step), params, opt_state, whole(), np.float64(seconds()))

  alive = list(range(len(runs)))
  state, ahead = program.advance(numbers, spread(state, layout.devices), task.data)
  for step in range(first, settings.steps + 1, CHUNK):
    records = _recorded(_fetch(ahead, len(runs), program, layout), step, settings)
    parts.append(records)
    new = {i: _of_run(records, i, step, settings) for i in alive}
    bad = {i: step + len(part.sound) - 1 for i, part in new.items() if not part.sound[-1]}
    if bad:
      before = _fetch((state.params, state.opt_state), len(runs), program, layout)
    # These first: no part of a round holds a run that has diverged and is not on record.
    for i, at in bad.items():
      on_records(runs[i], step, new.pop(i))
      alive.remove(i)
      params, opt_state = jax.tree.map(operator.itemgetter(i), before)
      yield ended(i, at, Snapshot(params, opt_state, _draw(runs[i], at, task)))
    if not alive:
      return
    if step + CHUNK <= settings.steps:
      on_call(step + CHUNK, functools.partial(partial, step + CHUNK))
      # The devices go on while records are written, but one call at a time: were there more, those
      # that share a batch could wait for each other for ever.
      state, ahead = program.advance(numbers, state, task.data)
    for i, part in new.items():
      on_records(runs[i], step, part)
  for i in alive:
    yield ended(i, None, None)


def _everywhere(runs: Sequence[Run], program: Program) -> list[Run]:
  """A run for each place; those without one of their own repeat the first."""
  return [*runs, *[runs[0]] * (program.capacity - len(runs))]


def _fetch(tree: Any, num_runs: int, program: Program, layout: Layout) -> Any:
  """What the devices hold, leaves [runs, ...]; a copy, since the next call reuses their memory."""
  drop = len(program.lead)

  def by_run(a: np.ndarray) -> np.ndarray:
    # Devices that share a run have the same; those of another process, too.
    return np.array(a[:: layout.data_parallel].reshape(-1, *a.shape[drop:])[:num_runs])

  return jax.tree.map(by_run, fetch(tree))


def _by_place(begun: Partial, program: Program, layout: Layout) -> TrainState:
  """The state of a part of a round, on the places of the devices."""

  def by_place(a: np.ndarray) -> np.ndarray:
    spare = np.repeat(a[:1], program.capacity - len(a), axis=0)
    rows = np.concatenate([a, spare]).reshape(*program.lead, *a.shape[1:])
    return np.repeat(rows, layout.data_parallel, axis=0)

  params, opt_state = jax.tree.map(by_place, (begun.params, begun.opt_state))
  steps = jax.tree.map(lambda a: np.full_like(a, begun.step), program.blanks.step)
  return TrainState(steps, params, opt_state)


def _recorded(records: Record, first_step: int, settings: Settings) -> Record:
  """Of a call's records [runs, CHUNK, ...] the steps up to the last, norms where recorded."""
  steps = np.arange(first_step, min(first_step + CHUNK, settings.steps + 1))
  recorded = np.flatnonzero(np.isin(steps, recorded_steps(settings)))
  return _rows(records, np.s_[:, : len(steps)], np.s_[:, recorded])


def _of_run(records: Record, i: int, first_step: int, settings: Settings) -> Record:
  """Run i's share of records from `_recorded`: its steps up to divergence or the last."""
  sound = records.sound[i]
  count = len(sound) if sound.all() else int(np.argmin(sound)) + 1
  steps = np.arange(first_step, first_step + count)
  recorded = int(np.isin(steps, recorded_steps(settings)).sum())
  return _rows(records, np.s_[i, :count], np.s_[i, :recorded])


def _rows(records: Record, every: Any, some: Any) -> Record:
  """A part of the steps: by one index where all are recorded, by another where some are."""
  kept = jax.tree.map(lambda a: a[every], records._replace(norms={}, measures={}))
  norms, measures = jax.tree.map(lambda a: a[some], (records.norms, records.measures))
  return kept._replace(norms=norms, measures=measures)


def _draw(run: Run, step: int, task: Task) -> Batch:
  """The batch of a step."""
  _, data_key = jax.random.split(jax.random.key(np.uint32(run.seed)))
  return jax.device_get(jax.jit(task.batch)(task.data, jax.random.fold_in(data_key, step)))
