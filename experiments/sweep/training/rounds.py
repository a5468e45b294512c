"""Trains a round: runs of one group that the group's program trains at the same time.

The program has a fixed number of *slots*, each of which trains one run. If a round has fewer runs,
the spare slots train copies of its first run.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree, Shaped

from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.run_tasks import RunTasks
from experiments.sweep.config.runs import Run, Settings
from experiments.sweep.records.record import Partial, Record, Result, Snapshot, recorded_steps
from experiments.sweep.training.program import CHUNK, Program, by_device
from rnn_jax.parallel import fetch, spread
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState
from rnn_jax.types import Array

_Index: TypeAlias = tuple[int | slice | np.ndarray, ...]


def partial_like(
  program: Program, run: Run, settings: Settings, num_runs: int, step: int
) -> Partial:
  """Returns the shapes and dtypes of a `Partial` of `num_runs` runs whose next step is `step`.

  `run` may be any run of the program's group.
  """
  recorded = sum(s < step for s in recorded_steps(run, settings))
  drop = len(program.leading_axes)

  def shape(a: np.ndarray | jax.ShapeDtypeStruct, *leading: int, drop: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*leading, *a.shape[drop:]), a.dtype)

  def rows(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda a: shape(a, num_runs, count, drop=1), tree)

  initial = program.initial_state.params, program.initial_state.opt_state
  params, opt_state = jax.tree.map(lambda a: shape(a, num_runs, drop=drop), initial)
  one = program.record
  records = rows(one._replace(norms={}, measures={}), step)
  records = records._replace(norms=rows(one.norms, recorded), measures=rows(one.measures, recorded))
  return Partial(np.int32(step), params, opt_state, records, np.float64(0))


def train_round(
  program: Program,
  runs: Sequence[Run],
  settings: Settings,
  tasks: RunTasks,
  layout: Layout,
  *,
  resumed_from: Partial | None = None,
  on_records: Callable[[Run, int, Record], None] = lambda *_: None,
  on_call: Callable[[int, Callable[[], Partial]], None] = lambda *_: None,
) -> Iterator[Result]:
  """Trains at most `program.runs_per_round` runs of one group at the same time.

  A run's records do not depend on the other runs or on the number of devices. They depend only by
  rounding on how many devices share a batch and on how many runs a device trains at a time. A
  resumed round yields the same records as an uninterrupted one.

  Args:
    program: the group's program, from `compile_group`.
    runs: the runs.
    settings: settings of the sweep.
    tasks: the tasks of the runs.
    layout: how runs are laid out on the devices.
    resumed_from: the runs' progress so far; None to start at step 0.
    on_records: called with (run, first step, records from that step on) whenever a run has new
      records. The first calls pass the records of `resumed_from`.
    on_call: called with (next step to train, function that returns the progress so far) after each
      call of the program except the last. The function must not be called after `on_call` returns,
      because the next call of the program overwrites the state.
  Yields:
    The result of each run, when the run diverges or at the end of the round.
  """
  numbers = by_device(_fill_slots(runs, program), layout, program.leading_axes)
  numbers = spread(numbers, layout.devices)
  progress = _Progress(program, runs, settings, layout, time.monotonic(), program.initial_state)
  first = 0
  if resumed_from is not None:
    first = int(resumed_from.step)
    progress.start -= float(resumed_from.seconds)
    progress.state = _to_slots(resumed_from, program, layout)
    progress.records.append(resumed_from.records)
    for i, run in enumerate(runs):
      on_records(run, 0, _of_run(resumed_from.records, i, 0, run, settings))
  alive = list(range(len(runs)))
  data, last = tasks.data, runs[0].steps
  progress.state, ahead = program.advance(numbers, spread(progress.state, layout.devices), data)
  for step in range(first, last + 1, CHUNK):
    records = _recorded(progress.fetch(ahead), step, runs[0], settings)
    progress.records.append(records)
    new = {i: _of_run(records, i, step, runs[i], settings) for i in alive}
    diverged = {i: step + len(part.finite) - 1 for i, part in new.items() if not part.finite[-1]}
    if diverged:
      before = progress.fetch((progress.state.params, progress.state.opt_state))
    # Yield results before `on_call`, so that the caller records a diverged run before it writes a
    # checkpoint that includes the run.
    for i, at in diverged.items():
      on_records(runs[i], step, new.pop(i))
      alive.remove(i)
      params, opt_state = jax.tree.map(operator.itemgetter(i), before)
      yield progress.result(i, at, Snapshot(params, opt_state, _draw(runs[i], at, tasks.train)))
    if not alive:
      return
    if step + CHUNK <= last:
      on_call(step + CHUNK, functools.partial(progress.partial, step + CHUNK))
      # Start the next call now, so that the devices compute while `on_records` writes. At most one
      # call may be in flight, because with more, devices that share a batch could deadlock.
      progress.state, ahead = program.advance(numbers, progress.state, data)
    for i, part in new.items():
      on_records(runs[i], step, part)
  for i in alive:
    yield progress.result(i, None, None)


@dataclasses.dataclass
class _Progress:
  """The progress of a round while it is trained.

  Attributes:
    program, runs, settings, layout: arguments of `train_round`.
    start: start time on the monotonic clock, minus the seconds that the round had already taken
      when it was resumed.
    state: train state on the devices, after the latest call of the program.
    records: the records of the resumed progress, if any, followed by those of each call so far;
      leaves [runs, steps, ...].
  """

  program: Program
  runs: Sequence[Run]
  settings: Settings
  layout: Layout
  start: float
  state: TrainState
  records: list[Record] = dataclasses.field(default_factory=list)

  def result(self, i: int, diverged_step: int | None, snapshot: Snapshot | None) -> Result:
    """Returns the result of the round's i-th run, from the records so far."""
    run = self.runs[i]
    records = _of_run(self._all_records(), i, 0, run, self.settings)
    return Result(run, records, diverged_step, snapshot, self._seconds())

  def partial(self, step: int) -> Partial:
    """Returns the progress so far; `step` must be the next step to train."""
    params, opt_state = self.fetch((self.state.params, self.state.opt_state))
    seconds = np.float64(self._seconds())
    return Partial(np.int32(step), params, opt_state, self._all_records(), seconds)

  def fetch(self, tree: PyTree[Array]) -> PyTree[np.ndarray]:
    """Copies arrays from the devices to the host; returns leaves [runs, ...].

    The arrays must be copied because the next call overwrites them. Each run is read from one
    device, because all devices that share the run hold equal values, even across processes.
    """
    drop = len(self.program.leading_axes)

    def by_run(a: Shaped[np.ndarray, "devices ..."]) -> Shaped[np.ndarray, "runs ..."]:
      return np.array(
        a[:: self.layout.data_parallel].reshape(-1, *a.shape[drop:])[: len(self.runs)]
      )

    return jax.tree.map(by_run, fetch(tree))

  def _all_records(self) -> Record:
    return jax.tree.map(lambda *a: np.concatenate(a, axis=1), *self.records)

  def _seconds(self) -> float:
    return time.monotonic() - self.start


def _fill_slots(runs: Sequence[Run], program: Program) -> list[Run]:
  """Returns one run for each slot: the round's runs, then copies of the first run."""
  return [*runs, *[runs[0]] * (program.runs_per_round - len(runs))]


def _to_slots(partial: Partial, program: Program, layout: Layout) -> TrainState:
  """Converts a resumed round's progress to the program's train state, leaves [devices, ...]."""

  def to_slots(a: Shaped[np.ndarray, "runs ..."]) -> Shaped[np.ndarray, "devices ..."]:
    spare = np.repeat(a[:1], program.runs_per_round - len(a), axis=0)
    rows = np.concatenate([a, spare]).reshape(*program.leading_axes, *a.shape[1:])
    return np.repeat(rows, layout.data_parallel, axis=0)

  params, opt_state = jax.tree.map(to_slots, (partial.params, partial.opt_state))
  steps = jax.tree.map(lambda a: np.full_like(a, partial.step), program.initial_state.step)
  return TrainState(steps, params, opt_state)


def _recorded(records: Record, first_step: int, run: Run, settings: Settings) -> Record:
  """Selects the records to keep from those that one call returned, leaves [runs, CHUNK, ...].

  Entries past the last step of `run`, which may be any run of the round, are dropped. Norms and
  measures are kept only at the steps that `recorded_steps` returns.
  """
  steps = np.arange(first_step, min(first_step + CHUNK, run.steps + 1))
  recorded = np.flatnonzero(np.isin(steps, recorded_steps(run, settings)))
  return _rows(records, np.s_[:, : len(steps)], np.s_[:, recorded])


def _of_run(records: Record, i: int, first_step: int, run: Run, settings: Settings) -> Record:
  """Selects the records of `run`, the i-th of a round, from those that `_recorded` returned.

  They end with the run's diverged step, if any.
  """
  finite = records.finite[i]
  count = len(finite) if finite.all() else int(np.argmin(finite)) + 1
  steps = np.arange(first_step, first_step + count)
  recorded = int(np.isin(steps, recorded_steps(run, settings)).sum())
  return _rows(records, np.s_[i, :count], np.s_[i, :recorded])


def _rows(records: Record, every: _Index, some: _Index) -> Record:
  """Indexes the norms and measures by `some`, and all other leaves by `every`."""
  kept = jax.tree.map(lambda a: a[every], records._replace(norms={}, measures={}))
  norms, measures = jax.tree.map(lambda a: a[some], (records.norms, records.measures))
  return kept._replace(norms=norms, measures=measures)


def _draw(run: Run, step: int, task: Task) -> Batch:
  """Draws again the batch on which the program trained `run` at `step`."""
  _, data_key = jax.random.split(jax.random.key(np.uint32(run.seed)))
  return jax.device_get(jax.jit(task.batch)(task.data, jax.random.fold_in(data_key, step)))
