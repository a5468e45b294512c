"""Trains runs of a sweep in this process, so that nothing is lost when it ends before they do.

The parts of rounds that are over are in `checkpoints/NAME/STEP`, where NAME stands for the round's
runs, which are in `runs.json` beside. A round's checkpoints go when all its runs have ended.

Where several processes train together, all compile and train the same rounds in the same order, as
process 0 has found them in the folder, and stop at the same call.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import operator
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.runtime import files, hosts
from experiments.sweep.config import grid
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import folder as sweep_folder
from experiments.sweep.training import divergence
from experiments.sweep.training.program import Program, Record, compile_group
from experiments.sweep.training.rounds import Partial, partial_like, train_round
from rnn_jax import checkpoints

News = Callable[[grid.Run, str, float, float | None], None]


class Stopped(Exception):
  """The work was asked to stop, and what it has come to is on disk."""


class Round(NamedTuple):
  """Runs that are trained at the same time.

  Attributes:
    runs: which.
    begun: what they have come to; None where they begin.
  """

  runs: Sequence[grid.Run]
  begun: Partial | None


def train(sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], news: News) -> None:
  """Trains runs of a sweep until each has ended, or has failed with a reason on record.

  Args:
    sweep: all of it; its folder is prepared.
    ids: of the runs to train.
    stop: tells whether to stop; looked at after each call of a program.
    news: called with (run, what is going on, share of the run that is done, latest loss or None).
  Raises:
    Stopped: as it was asked to.
    ValueError: a checkpoint is of another configuration.
    OSError: the folder cannot be read or written.
    Exception: anything that ends a round, where there are several processes: the others cannot be
      told to leave it out.
  """
  every = grid.groups(sweep.ids.values())
  wanted = {sweep.ids[name] for name in ids}
  groups = {key: [run for run in runs if run in wanted] for key, runs in every.items()}
  groups = {key: runs for key, runs in groups.items() if runs}
  ahead = _compiled_ahead([every[key] for key in groups], sweep, stop)
  for runs in groups.values():
    news(runs[0], "compiling", 0.0, None)
    compiled = next(ahead)
    error = compiled.exception()  # a cell may fail in any way
    if hosts.any_of(error is not None):
      for run in runs if hosts.is_writer() else ():
        fail(sweep, run, "compilation", error or RuntimeError("another process could not"))
      continue
    program = compiled.result()
    for part in hosts.by_writer(_rounds, sweep, program, runs):
      try:
        _train_round(sweep, program, part, stop, news)
      except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if jax.process_count() > 1:
          raise
        for run in part.runs:
          if not sweep_folder.has_ended(sweep.folder, sweep.names[run]):
            fail(sweep, run, "training", error)
  if hosts.any_of(stop()):
    raise Stopped


def _compiled_ahead(
  groups: Sequence[Sequence[grid.Run]], sweep: Sweep, stop: Callable[[], bool]
) -> Iterator[Future[Program]]:
  """The program of each group; while one is in use, a thread compiles the next."""
  # Not closed at the end, as one who stops should not wait for a compilation.
  thread = ThreadPoolExecutor(1)

  def begin(runs: Sequence[grid.Run]) -> Future[Program]:
    return thread.submit(compile_group, runs, sweep.settings, sweep.task, sweep.layout)

  if not groups:
    return
  ahead = begin(groups[0])
  for following in [*groups[1:], None]:
    while not concurrent.futures.wait([ahead], timeout=0.1).done:
      # Several processes stop together, where they train.
      if jax.process_count() == 1 and stop():
        raise Stopped
    now = ahead
    if following is not None:
      ahead = begin(following)
    yield now


def _train_round(
  sweep: Sweep, program: Program, part: Round, stop: Callable[[], bool], news: News
) -> None:
  if hosts.any_of(stop()):
    raise Stopped
  if not hosts.is_writer():
    _follow_round(sweep, program, part, stop)
    return
  folder, settings, names = sweep.folder, sweep.settings, sweep.names
  ids = [names[run] for run in part.runs]
  place = _place(folder, ids)
  saved = 0 if part.begun is None else int(part.begun.step)

  def on_records(run: grid.Run, step: int, new: Record) -> None:
    if step == 0:
      sweep_folder.start_run(folder, names[run], grid.config(run, settings, sweep.sha256))
    sweep_folder.append_metrics(folder, names[run], step, new)
    done = (step + len(new.loss)) / (settings.steps + 1)
    news(run, "training", done, float(new.loss[-1]))

  with contextlib.closing(checkpoints.Series(place)) as series:

    def on_call(step: int, partial: Callable[[], Partial]) -> None:
      nonlocal saved
      stopping = hosts.any_of(stop())
      if stopping or step - saved >= sweep.checkpoint_every:
        if not (place / "runs.json").exists():
          files.write_json(place / "runs.json", {"runs": ids})
        series.save(step, partial(), _configuration(sweep, ids))
        saved = step
      if stopping:
        series.wait()
        raise Stopped

    results = train_round(
      program,
      part.runs,
      settings,
      sweep.task,
      sweep.layout,
      begun=part.begun,
      on_records=on_records,
      on_call=on_call,
    )
    for result in results:
      bad = divergence.of(result, settings, sweep.task)
      sweep_folder.end_run(folder, names[result.run], result, settings, bad)
      news(result.run, "training", 1.0, None)
  shutil.rmtree(place, ignore_errors=True)


def _follow_round(sweep: Sweep, program: Program, part: Round, stop: Callable[[], bool]) -> None:
  """This process's share of what `_train_round` does in process 0; writes nothing."""

  def on_call(*_: object) -> None:
    if hosts.any_of(stop()):
      raise Stopped

  common = sweep.settings, sweep.task, sweep.layout
  for _ in train_round(program, part.runs, *common, begun=part.begun, on_call=on_call):
    pass


def _rounds(sweep: Sweep, program: Program, runs: Sequence[grid.Run]) -> list[Round]:
  """The runs of a group in rounds: together those that are equally far, the farthest first."""
  begun = _begun(sweep, program, runs)
  steps = {run: int(begun[run].step) if run in begun else 0 for run in runs}
  rounds = []
  for step in sorted(set(steps.values()), reverse=True):
    alike = [run for run in runs if steps[run] == step]
    for first in range(0, len(alike), program.capacity):
      together = alike[first : first + program.capacity]
      part = _together([begun[run] for run in together]) if step else None
      rounds.append(Round(together, part))
  return rounds


def _begun(sweep: Sweep, program: Program, runs: Sequence[grid.Run]) -> dict[grid.Run, Partial]:
  """What each run has come to that is in a checkpoint, leaves without an axis of runs."""
  found: dict[grid.Run, Partial] = {}
  wanted = set(runs)
  for place in sorted((sweep.folder / "checkpoints").glob("*/")):
    ids = _ids(place)
    if not any(sweep.ids.get(name) in wanted for name in ids):
      continue

    def like(step: int, count: int = len(ids)) -> Partial:
      return partial_like(program, sweep.settings, count, step)

    saved = checkpoints.newest(place, _configuration(sweep, ids), like)
    for message in () if saved is None else saved.damaged:
      _warn(message)
    if saved is None or saved.step is None:
      continue
    for i, name in enumerate(ids):
      run = sweep.ids[name]
      if run in wanted and (run not in found or found[run].step < saved.step):
        found[run] = _one(saved.tree, i)
  return found


def _one(whole: Partial, i: int) -> Partial:
  """Run i of a part of a round."""
  rows = whole.params, whole.opt_state, whole.records
  params, opt_state, of_run = jax.tree.map(operator.itemgetter(i), rows)
  return Partial(whole.step, params, opt_state, of_run, whole.seconds)


def _together(parts: Sequence[Partial]) -> Partial:
  """A part of a round, out of runs that have come equally far."""
  rows = [(part.params, part.opt_state, part.records) for part in parts]
  params, opt_state, of_runs = jax.tree.map(lambda *a: np.stack(a), *rows)
  seconds = max(part.seconds for part in parts)
  return Partial(parts[0].step, params, opt_state, of_runs, seconds)


def _place(folder: Path, ids: Sequence[str]) -> Path:
  """Where the checkpoints of a round are."""
  name = hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:16]
  return folder / "checkpoints" / name


def _ids(place: Path) -> list[str]:
  """The runs of a round's checkpoints; none where their list is missing or damaged."""
  try:
    ids = files.read_json(place / "runs.json")["runs"]
    if _place(place.parents[1], ids) == place:
      return ids
  except FileNotFoundError:  # it begins
    return []
  except (ValueError, KeyError, TypeError):
    pass
  _warn(f"{place / 'runs.json'} is damaged; the runs that it is about begin anew.")
  return []


def _configuration(sweep: Sweep, ids: Sequence[str]) -> dict[str, object]:
  """What a checkpoint must agree in to be gone on from."""
  return {"runs": list(ids), **sweep.configuration}


def clear(folder: Path) -> None:
  """Removes the checkpoints of runs that have ended; for one who is alone in a sweep's folder.

  A round that went on in other company leaves those that it had before.
  """
  for place in (folder / "checkpoints").glob("*/"):
    ids = _ids(place)
    if ids and all(sweep_folder.has_ended(folder, name) for name in ids):
      shutil.rmtree(place, ignore_errors=True)
  with contextlib.suppress(OSError):  # it is not empty, or was never there
    (folder / "checkpoints").rmdir()


def fail(sweep: Sweep, run: grid.Run, phase: str, error: BaseException) -> None:
  """Records why a run could not be trained; the traceback goes into a file of its folder."""
  config = grid.config(run, sweep.settings, sweep.sha256)
  reason = f"{phase}: {type(error).__name__}: " + (str(error).strip() or "no reason").split("\n")[0]
  trace = "".join(traceback.format_exception(error))
  sweep_folder.fail_run(sweep.folder, sweep.names[run], config, reason, trace)
  _warn(f"{sweep.names[run]} failed, the others go on. {reason}")


def _warn(message: str) -> None:
  print(f"warning: {message}", file=sys.stderr)
