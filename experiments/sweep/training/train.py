"""Trains runs of a sweep in this process, with checkpoints from which a later process resumes.

If several processes train each run together, only process 0 reads and writes the sweep's folder.
All processes compile programs and train rounds in the same order. If they are stopped, all stop
after the same call of a program.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from experiments.runtime import hosts
from experiments.sweep.config.groups import by_group
from experiments.sweep.config.runs import Run, run_config
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import origins, round_checkpoints, run_files
from experiments.sweep.records.record import Partial, Record, Result
from experiments.sweep.training import divergence, replay_file, resume
from experiments.sweep.training.program import Program, compile_group
from experiments.sweep.training.resume import Round
from experiments.sweep.training.rounds import train_round

# A callback with the arguments (run, activity that begins or continues, fraction of the run that is
# done, latest loss). The activity is `compiling`, `resuming` or `training`; the loss is None if it
# is not known.
OnProgress = Callable[[Run, str, float, float | None], None]


class Stopped(Exception):
  """Raised when training was asked to stop and has stopped. The progress so far is on disk."""


def train_runs(
  sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], on_progress: OnProgress
) -> None:
  """Trains runs of a sweep until each has finished, diverged, or failed with a recorded reason.

  Args:
    sweep: the whole sweep; its folder must be prepared.
    ids: ids of the runs to train.
    stop: returns whether to stop. It is called before each round, after each call of a program and,
      if this process trains alone, while it waits for a compilation.
    on_progress: called as runs progress; see `OnProgress`.
  Raises:
    Stopped: if `stop` returned True.
    ValueError: if a checkpoint was saved with a different configuration.
    OSError: if the folder cannot be read or written.
    jax.errors.JaxRuntimeError, MemoryError: if a round fails and several processes train together,
      since the other processes cannot be told to skip the round. A single process records the
      round's unfinished runs as failed instead.
  """
  every = by_group(sweep.ids.values())
  wanted = {sweep.ids[name] for name in ids}
  groups = {key: [run for run in runs if run in wanted] for key, runs in every.items()}
  groups = {key: runs for key, runs in groups.items() if runs}
  programs = _compile_ahead([every[key] for key in groups], sweep, stop)
  for runs in groups.values():
    on_progress(runs[0], "compiling", 0.0, None)
    compiled = next(programs)
    error = compiled.exception()  # may be of any type, since a cell's code may raise anything
    if hosts.any_of(error is not None):
      for run in runs if hosts.is_writer() else ():
        error = error or RuntimeError("it failed in another process")
        run_files.fail(sweep, run, "compilation", error)
      continue
    program = compiled.result()
    for round_ in hosts.by_writer(resume.rounds, sweep, program, runs):
      try:
        _train_round(sweep, program, round_, stop, on_progress)
      except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if jax.process_count() > 1:
          raise
        for run in round_.runs:
          name = sweep.names[run]
          state = run_files.status(sweep.folder, name)
          if state.get("status") not in run_files.DONE or origins.stale(sweep, {name: state}):
            run_files.fail(sweep, run, "training", error)
  _stop_if_asked(stop)


def _stop_if_asked(stop: Callable[[], bool], *_: object) -> None:
  """Raises `Stopped` in all processes if any of them was asked to stop."""
  if hosts.any_of(stop()):
    raise Stopped


def _compile_ahead(
  groups: Sequence[Sequence[Run]], sweep: Sweep, stop: Callable[[], bool]
) -> Iterator[Future[Program]]:
  """Yields each group's program, as a finished future, while a thread compiles the next program."""
  # Never shut the pool down, because a process that stops would then wait for a compilation.
  thread = ThreadPoolExecutor(1)

  def compile_next(runs: Sequence[Run]) -> Future[Program]:
    about = sweep.settings, sweep.tasks_of(runs[0]), sweep.layout, sweep.remat
    return thread.submit(compile_group, runs, *about)

  if not groups:
    return
  ahead = compile_next(groups[0])
  for following in [*groups[1:], None]:
    while not concurrent.futures.wait([ahead], timeout=0.1).done:
      # Only a process that trains alone may stop here. Several processes must stop at the same
      # point, but they call `stop` here at different times, so they stop only while they train.
      if jax.process_count() == 1 and stop():
        raise Stopped
    now = ahead
    if following is not None:
      # JAX's caches keep every program. On a CPU, a program has hundreds of memory maps, of which
      # Linux grants a process 65,530: without this line, it aborts after 70 to 100 groups. It is
      # here because now nothing is traced, compiled or trained.
      jax.clear_caches()
      ahead = compile_next(following)
    yield now


def _train_round(
  sweep: Sweep, program: Program, round_: Round, stop: Callable[[], bool], on_progress: OnProgress
) -> None:
  """Trains a round; process 0 writes the round's records and checkpoints."""
  _stop_if_asked(stop)
  results = functools.partial(
    train_round,
    program,
    round_.runs,
    sweep.settings,
    sweep.tasks_of(round_.runs[0]),
    sweep.layout,
    resumed_from=round_.resumed_from,
  )
  if not hosts.is_writer():
    for _ in results(on_call=functools.partial(_stop_if_asked, stop)):
      pass
    return
  ids = [sweep.names[run] for run in round_.runs]
  replaced = {name for name in ids if run_files.is_done(sweep.folder, name)}
  saved_step = 0 if round_.resumed_from is None else int(round_.resumed_from.step)
  share = saved_step / (round_.runs[0].steps + 1)
  for run in round_.runs if saved_step else ():
    on_progress(run, "resuming", share, None)
  on_progress(round_.runs[0], "training", share, None)
  with contextlib.closing(round_checkpoints.Writer(sweep, ids, saved_step, round_.code)) as writer:
    for result in results(
      on_records=functools.partial(_append_records, sweep, on_progress, replaced),
      on_call=functools.partial(_save_or_stop, writer, stop),
    ):
      _finish_run(sweep, result, round_.code)
      on_progress(result.run, "training", 1.0, None)
  round_checkpoints.remove(round_checkpoints.path_of(sweep.folder, ids))


def _append_records(
  sweep: Sweep,
  on_progress: OnProgress,
  replaced: Container[str],
  run: Run,
  step: int,
  records: Record,
) -> None:
  """Appends a run's records, which start at `step`, to the run's files, and reports progress.

  If the run is in `replaced`, its record, which other code made, is kept until the run ends.
  """
  folder, name = sweep.folder, sweep.names[run]
  if name not in replaced:
    if step == 0:
      run_files.start(folder, name, run_config(run, sweep.settings, sweep.sha256))
    run_files.append_metrics(folder, name, step, records)
  done = (step + len(records.loss)) / (run.steps + 1)
  on_progress(run, "training", done, float(records.loss[-1]))


def _finish_run(sweep: Sweep, result: Result, code: str | None) -> None:
  """Writes a run's result; if the run diverged, also writes `replay.npz`.

  The status of a diverged run holds the location of its first non-finite value. The diverged step
  can be recomputed from `replay.npz`.
  """
  diverged = divergence.diverged_step(result, sweep.tasks_of(result.run).train)
  nonfinite = replay = None
  if diverged is not None:
    nonfinite = divergence.locate(diverged)
    replay = replay_file.to_bytes(diverged, nonfinite, sweep.imports)
  name = sweep.names[result.run]
  run_files.finish(sweep.folder, name, result, sweep.settings, nonfinite, replay, code)


def _save_or_stop(
  writer: round_checkpoints.Writer,
  stop: Callable[[], bool],
  step: int,
  partial: Callable[[], Partial],
) -> None:
  """Saves the progress so far if a checkpoint is due or training was asked to stop.

  Args:
    writer: writes the round's checkpoints.
    stop: returns whether to stop.
    step: the next step to train.
    partial: returns the progress so far.
  Raises:
    Stopped: if training was asked to stop. It is raised after the checkpoint is on disk.
  """
  stopping = hosts.any_of(stop())
  if stopping or writer.is_due(step):
    writer.save(step, partial())
  if stopping:
    writer.wait()
    raise Stopped
