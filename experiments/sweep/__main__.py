"""Trains networks over a grid of settings, and records how the gradient flows through time.

  python -m experiments.sweep --flagfile=gradient_decay

A comma list of values spans an axis of the grid, such as cell, depth, truncation or seed. Runs with
the same cell and depth share a compiled program. Running the same command again resumes an
interrupted sweep: finished runs are kept, and unfinished runs continue from their checkpoints.
With `--engine`, Ray or SLURM trains the runs; with `--num_shards`, this process trains only some.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Collection
from typing import NoReturn

from absl import flags
from rich.console import Console

from experiments.cli import command_line, flag_table, progress
from experiments.networks import cell_table
from experiments.runtime import backend, compilation_cache, exits, hosts, locks, signals
from experiments.sweep import engines, measures, selection
from experiments.sweep.config import engine_flags, tracker_flags
from experiments.sweep.config import flags as sweep_flags
from experiments.sweep.config.groups import by_group, group_name
from experiments.sweep.config.resolve import resolve
from experiments.sweep.config.runs import Run
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import locking, origins, round_checkpoints, run_files, sweep_folder
from experiments.sweep.trackers.tracker import Tracker
from experiments.sweep.training.train import OnProgress, Stopped, train_runs

TABLE = sweep_flags.TABLE


def define_flags() -> None:
  """Defines the flags of this command."""
  sweep_flags.define()


def main(arguments: list[str]) -> None:
  """Runs the sweep that the flags describe, or prints a table if a `--list_…` flag is given."""
  if flags.FLAGS.list_cells is not None:
    cell_table.show(flags.FLAGS.list_cells)
  elif flags.FLAGS.list_measures:
    measures.show()
  elif flags.FLAGS.list_flags:
    print(flag_table.markdown(sweep_flags.TABLE), end="")
  else:
    _start(arguments)


def _start(arguments: list[str]) -> None:
  """Runs the sweep, after connecting to the other processes if several share each run."""
  try:
    processes = engine_flags.processes()
  except ValueError as error:
    exits.fail(str(error))
  with hosts.joined(processes):
    _resolve_and_run(arguments)


def _resolve_and_run(arguments: list[str]) -> None:
  with command_line.errors_in_one_line("a file could not be read or written"):
    engine_flags.check_engine()
    command_line.check_no_arguments(arguments)
    given = flag_table.given(TABLE)
    sweep = resolve(given)
    stages = [sweep] if sweep.select is None else [resolve(given, selecting=True), sweep]
    for stage in stages:
      _check_processes_agree(stage)
      hosts.by_writer(_check_folder, stage)
    hosts.by_writer(tracker_flags.check_tracker)
  if flags.FLAGS.dry_run:
    if hosts.is_writer():
      _print_plan(stages[0])
      if sweep.select is not None:
        seeds = _count(len(sweep.axes["seed"]), "seed")
        print(f"Then the chosen values of {sweep.select} are trained with {seeds}.")
    return
  compilation_cache.use(flags.FLAGS.compilation_cache)
  if sweep.select is not None:
    failed = _run_or_exit(stages[0])
    with command_line.errors_in_one_line("--output_dir could not be read"):
      choices = hosts.by_writer(selection.choose, stages[0], sweep.select)
    if hosts.is_writer():
      selection.report(choices, stages[0], sweep.select, failed)
    sweep = selection.select(sweep, sweep.select, choices)
  if _run_or_exit(sweep):
    sys.exit(exits.FAILED)


def _run_or_exit(sweep: Sweep) -> bool:
  """Runs a sweep, and returns whether a run failed; exits if the sweep is stopped."""
  try:
    with command_line.errors_in_one_line("--output_dir could not be read or written"):
      return _run(sweep)
  except KeyboardInterrupt:
    _interrupted(sweep, signal.SIGINT)


def _check_folder(sweep: Sweep) -> None:
  extend = sweep.shard is None
  about = sweep.folder, sweep.configuration, flags.FLAGS.overwrite
  sweep_folder.check_folder(*about, extend=extend)


def _check_processes_agree(sweep: Sweep) -> None:
  """Checks that all processes that train together resolved the same sweep and device layout."""
  layout = sweep.layout
  sizes = len(layout.devices), layout.runs_per_device
  same = sweep.configuration, sweep.shard, *sizes, sweep.remat
  if hosts.any_of(hosts.broadcast(same) != same):
    raise ValueError("--coordinator must join processes with equal flags and equal corpora.")


def _print_plan(sweep: Sweep) -> None:
  """Prints the runs that this process would train, by group; each group is compiled once."""
  runs = [sweep.ids[name] for name in locking.runs_of(sweep)]
  groups = by_group(runs)
  varied = _varied(sweep)
  for group in groups.values():
    print(f"{group_name(group[0], varied)}: one compilation, {_count(len(group), 'run')}")
    for run in group:
      print(f"  {sweep.names[run]}")
  print(
    f"{_count(len(runs), 'run')}, {_count(len(groups), 'group')}, "
    f"{_count(len(groups), 'compilation')}, {_count(len(sweep.layout.devices), 'device')}; "
    "nothing was written."
  )


def _varied(sweep: Sweep) -> set[str]:
  """Returns the settings that a group's name must include."""
  return sweep.varied | ({"hidden_size"} if sweep.settings.match_params is not None else set())


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}{'' if number == 1 else 's'}"


def _run(sweep: Sweep) -> bool:
  """Trains the runs that are not done yet and gathers all records; returns whether a run failed."""
  with contextlib.ExitStack() as stack:
    tracker = _tracker(sweep)
    hosts.by_writer(_prepare_folder, sweep, stack)
    with signals.caught() as stop:
      try:
        _train(sweep, stop, tracker)
      except Stopped:
        if tracker is not None:
          tracker.close(stopped=True)
        _stopped(sweep, stop.number or signal.SIGTERM)
    failed = hosts.by_writer(_finish, sweep)
    if tracker is not None:
      if sweep.shard is None:
        tracker.figures(sweep.folder / "figures")
      tracker.close()
    return failed


def _tracker(sweep: Sweep) -> Tracker | None:
  """Returns the selected tracker; None if there is none or another process writes the records."""
  name = flags.FLAGS.tracker
  return Tracker(name, sweep) if name != "none" and hosts.is_writer() else None


def _prepare_folder(sweep: Sweep, stack: contextlib.ExitStack) -> None:
  """Locks the output folder, or only the shard's runs, until `stack` closes, and prepares it."""
  if sweep.shard is not None:
    stack.enter_context(locking.runs_lock(sweep, locking.runs_of(sweep)))
    locking.prepare_shared(sweep)
    return
  has_workers = flags.FLAGS.engine != "local"
  lock = locking.driver_lock if has_workers else locks.folder_lock
  stack.enter_context(lock(sweep.folder))
  changes = None if flags.FLAGS.overwrite else sweep_folder.changed_runs(sweep.folder, sweep.ids)
  locking.prepare(sweep, flags.FLAGS.overwrite)
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
    print(f"{num_done} of {_count(num_runs, 'run')} already done; their records are kept.")
  with progress.show(num_runs, num_done, Console()) as report:
    if flags.FLAGS.engine != "local":
      report("training", num_done, None)  # in other processes, from now on
    on_progress = _summed(report, num_done, _varied(sweep))
    if tracker is not None:
      on_progress = tracker.following(on_progress)
    engines.ENGINES[flags.FLAGS.engine](sweep, wanted, stop, on_progress)


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
  kept = run_files.DONE if flags.FLAGS.retry_failed else run_files.ENDED
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


def _stopped(sweep: Sweep, number: int) -> NoReturn:
  """Exits with status 128 + `number`, after all processes that train together have stopped."""
  is_writer = hosts.is_writer()
  hosts.leave()
  if not is_writer:
    exits.interrupted(status=128 + number)
  _interrupted(sweep, number)


def _interrupted(sweep: Sweep, number: int) -> NoReturn:
  names = locking.runs_of(sweep)
  num_done = sum(run_files.is_done(sweep.folder, name) for name in names)
  exits.interrupted(
    f"{num_done} of {_count(len(names), 'run')} done; all progress so far is in {sweep.folder}. "
    "Run the same command again to resume.",
    128 + number,
  )


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
