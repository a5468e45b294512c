"""The course of a sweep, from its flags to its figures, for the command and for `run_sweep`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection, Sequence

from rich.console import Console

from experiments.cli import progress
from experiments.runtime import hosts, locks, signals
from experiments.sweep import engines, selection
from experiments.sweep.config import tracker_flags
from experiments.sweep.config.groups import group_name
from experiments.sweep.config.resolve import Values, resolve
from experiments.sweep.config.runs import Run
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import locking, origins, round_checkpoints, run_files, sweep_folder
from experiments.sweep.trackers.tracker import Tracker
from experiments.sweep.training.train import OnProgress, Stopped, train_runs


class Interrupted(Exception):
  """Raised when a signal has stopped a sweep. The progress so far is on disk.

  Args:
    number: the signal's number.
  """

  def __init__(self, number: int):
    super().__init__(number)
    self.number = number


def stages(given: Values) -> list[Sweep]:
  """Returns the sweeps that these flags describe, checked together with their folders.

  There are two with `--select`: the first one trains all values of an axis, of which the second
  trains those that were chosen.

  Args:
    given: values of the flags that are given; the others have their defaults.
  Raises:
    ValueError, TypeError: if a flag is invalid or contradicts another one, or if the output folder
      or the tracker cannot be used.
  """
  sweep = resolve(given)
  found = [sweep] if sweep.select is None else [resolve(given, selecting=True), sweep]
  for stage in found:
    _check_processes_agree(stage)
    hosts.by_writer(_check_folder, stage)
  hosts.by_writer(tracker_flags.check_tracker, sweep.tracker)
  return found


def _check_folder(sweep: Sweep) -> None:
  extend = sweep.shard is None
  about = sweep.folder, sweep.configuration, sweep.overwrite
  sweep_folder.check_folder(*about, extend=extend)


def _check_processes_agree(sweep: Sweep) -> None:
  """Checks that all processes that train together resolved the same sweep and device layout."""
  layout = sweep.layout
  sizes = len(layout.devices), layout.runs_per_device
  same = sweep.configuration, sweep.shard, *sizes, sweep.remat
  if hosts.any_of(hosts.broadcast(same) != same):
    raise ValueError("--coordinator must join processes with equal flags and equal input files.")


def run_stages(sweeps: Sequence[Sweep], run_one: Callable[[Sweep], bool]) -> bool:
  """Runs the sweeps from `stages` one after the other; returns whether a run of the last failed.

  Args:
    sweeps: the sweeps.
    run_one: runs a sweep, and returns whether a run failed.
  """
  *first, sweep = sweeps
  for selecting in first:
    name = str(sweep.select)
    failed = run_one(selecting)
    choices = hosts.by_writer(selection.choose, selecting, name)
    if hosts.is_writer():
      selection.report(choices, selecting, name, failed)
    sweep = selection.select(sweep, name, choices)
  return run_one(sweep)


def varied(sweep: Sweep) -> set[str]:
  """Returns the settings that a group's name must include."""
  return sweep.varied | ({"hidden_size"} if sweep.settings.match_params is not None else set())


def count(number: int, noun: str) -> str:
  """Returns a number and its noun, in the plural unless the number is 1."""
  return f"{number} {noun}{'' if number == 1 else 's'}"


def run(sweep: Sweep, *, quits: bool) -> bool:
  """Trains the runs that are not done yet and gathers all records; returns whether a run failed.

  Args:
    sweep: the sweep.
    quits: whether a second signal ends the process at once; see `signals.caught`.
  Raises:
    Interrupted: if a signal stopped the training.
  """
  with contextlib.ExitStack() as stack:
    tracker = _tracker(sweep)
    hosts.by_writer(_prepare_folder, sweep, stack)
    with signals.caught(quits=quits) as stop:
      try:
        _train(sweep, stop, tracker)
      except Stopped:
        if tracker is not None:
          tracker.close(stopped=True)
        raise Interrupted(stop.number or signal.SIGTERM) from None
    failed = hosts.by_writer(_finish, sweep)
    if tracker is not None:
      if sweep.shard is None:
        tracker.figures(sweep.folder / "figures")
      tracker.close()
    return failed


def _tracker(sweep: Sweep) -> Tracker | None:
  """Returns the selected tracker; None if there is none or another process writes the records."""
  return Tracker(sweep.tracker, sweep) if sweep.tracker != "none" and hosts.is_writer() else None


def _prepare_folder(sweep: Sweep, stack: contextlib.ExitStack) -> None:
  """Locks the output folder, or only the shard's runs, until `stack` closes, and prepares it."""
  if sweep.shard is not None:
    stack.enter_context(locking.runs_lock(sweep, locking.runs_of(sweep)))
    locking.prepare_shared(sweep)
    return
  has_workers = sweep.engine != "local"
  lock = locking.driver_lock if has_workers else locks.folder_lock
  stack.enter_context(lock(sweep.folder))
  changes = None if sweep.overwrite else sweep_folder.changed_runs(sweep.folder, sweep.ids)
  locking.prepare(sweep, sweep.overwrite)
  for text in (changes, *sweep.no_effect):
    if text is not None:
      print(text)


def _train(sweep: Sweep, stop: signals.Stop, tracker: Tracker | None) -> None:
  """Trains the runs that are not done yet; failed runs are retried only with --retry_failed."""
  num_runs, num_done, wanted = hosts.by_writer(_status, sweep)
  if not hosts.is_writer():
    train_runs(sweep, wanted, stop, lambda *_: None)
    return
  if num_done:
    print(f"{num_done} of {count(num_runs, 'run')} already done; their records are kept.")
  with progress.show(num_runs, num_done, Console()) as report:
    if sweep.engine != "local":
      report("training", num_done, None)  # in other processes, from now on
    on_progress = _summed(report, num_done, varied(sweep))
    if tracker is not None:
      on_progress = tracker.following(on_progress)
    engines.ENGINES[sweep.engine](sweep, wanted, stop, on_progress)


def _summed(report: progress.Report, num_done: int, varied: Collection[str] = ()) -> OnProgress:
  """Returns a progress callback that reports the sum of all runs' progress, in runs.

  Args:
    report: displays the progress.
    num_done: number of runs that were done before.
    varied: settings that the names of groups include; see `group_name`.
  """
  # Few runs are in training at a time, so the sum over their shares is short.
  trained: set[Run] = set()
  shares: dict[Run, float] = {}

  def on_progress(run: Run, activity: str, share: float, loss: float | None) -> None:
    shares[run] = share
    if share == 1:
      del shares[run]
      trained.add(run)
    done = num_done + len(trained) + sum(shares.values())
    report(activity, done, loss, group_name(run, varied))

  return on_progress


def _status(sweep: Sweep) -> tuple[int, int, list[str]]:
  """Returns (number of runs, number of runs that are done, ids of the runs to train).

  Prints which records and checkpoints other code or versions made.
  """
  states = run_files.statuses(sweep.folder, locking.runs_of(sweep))
  ended = {name: s.get("code") for name, s in states.items() if s.get("status") in run_files.ENDED}
  for name in origins.report(sweep, "records", ended):
    states[name] = {}
  begun = round_checkpoints.codes(sweep.folder)
  left = [name for name, state in states.items() if state.get("status") not in run_files.ENDED]
  origins.report(sweep, "checkpoints", {name: begun[name] for name in left if name in begun})
  kept = run_files.DONE if sweep.retry_failed else run_files.ENDED
  num_done = sum(state.get("status") in run_files.DONE for state in states.values())
  wanted = [name for name, state in states.items() if state.get("status") not in kept]
  return len(states), num_done, wanted


def _finish(sweep: Sweep) -> bool:
  """Gathers and plots all records, or reports on this shard; returns whether a run failed."""
  # Imported here because loading matplotlib takes a second, which would delay error messages.
  from experiments.sweep import finish

  if sweep.shard is None:
    return finish.finish(sweep.folder, sweep.ids)
  return finish.finish_shard(sweep.folder, list(sweep.ids), locking.runs_of(sweep))


def progress_text(sweep: Sweep) -> str:
  """Returns how many of the runs of this process are done, and where their records are."""
  names = locking.runs_of(sweep)
  num_done = sum(run_files.is_done(sweep.folder, name) for name in names)
  done = f"{num_done} of {count(len(names), 'run')} done"
  return f"{done}; all progress so far is in {sweep.folder}."
