"""Trains networks over a grid of settings, and records how the gradient flows through time.

  python -m experiments.sweep --flagfile=experiments/flagfiles/gradient_decay.flags

A comma list of values spans an axis of the grid, such as cell, depth, truncation or seed. Runs that
can share a compiled program do. The same command resumes an interrupted sweep: finished runs are
kept, the others continue from their checkpoints. `--engine` lets other processes train the runs;
with `--num_shards` this process trains a part of them.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import NoReturn

from absl import flags
from rich.console import Console

from experiments.cli import command_line, flag_table, progress
from experiments.networks import cell_table
from experiments.runtime import backend, compilation_cache, exits, hosts, locks, signals
from experiments.sweep import engines, finish, measures
from experiments.sweep.config import engine_flags, grid
from experiments.sweep.config import flags as sweep_flags
from experiments.sweep.config.sweep import Sweep, resolve
from experiments.sweep.records import access, run_files, sweep_folder
from experiments.sweep.training.train import Stopped, train_runs


def define_flags() -> None:
  """Defines the flags of the sweep."""
  sweep_flags.define()


def main(arguments: list[str]) -> None:
  """Runs the sweep that the flags describe."""
  if flags.FLAGS.list_cells:
    cell_table.show()
  elif flags.FLAGS.list_measures:
    measures.show()
  elif flags.FLAGS.list_flags:
    print(flag_table.markdown(sweep_flags.TABLE), end="")
  else:
    _start(arguments)


def _start(arguments: list[str]) -> None:
  try:
    processes = engine_flags.processes()
  except ValueError as error:
    exits.fail(str(error))
  with hosts.joined(processes):
    _resolve_and_run(arguments)


def _resolve_and_run(arguments: list[str]) -> None:
  try:
    engine_flags.check_engine()
    sweep = resolve(arguments)
    _check_processes_agree(sweep)
    hosts.by_writer(
      sweep_folder.check_folder, sweep.folder, sweep.configuration, flags.FLAGS.overwrite
    )
  except (ValueError, TypeError) as error:
    exits.fail(str(error))
  if flags.FLAGS.dry_run:
    if hosts.is_writer():
      _print_plan(sweep)
    return
  compilation_cache.use(flags.FLAGS.compilation_cache)
  try:
    with command_line.errors_in_one_line("--output_dir could not be read or written"):
      failed = _run(sweep)
  except KeyboardInterrupt:
    _interrupted(sweep, signal.SIGINT)
  if failed:
    sys.exit(exits.FAILED)


def _check_processes_agree(sweep: Sweep) -> None:
  """Refuses to train together with processes that have resolved another sweep or layout."""
  layout = sweep.layout
  same = sweep.configuration, sweep.shard, len(layout.devices), layout.runs_per_device
  if hosts.any_of(hosts.broadcast(same) != same):
    raise ValueError("--coordinator must join processes with equal flags and equal corpora.")


def _print_plan(sweep: Sweep) -> None:
  own = [sweep.ids[name] for name in access.runs_of(sweep)]
  groups, names = grid.groups(own), sweep.names
  for runs in groups.values():
    print(f"{_words(runs[0])}: one compilation, {len(runs)} runs")
    for run in runs:
      print(f"  {names[run]}")
  print(
    f"{len(own)} runs, {len(groups)} groups, {len(groups)} compilations, "
    f"{len(sweep.layout.devices)} devices; nothing was written."
  )


def _words(run: grid.Run) -> str:
  """The group of a run, as a reader is told of it."""
  by = "" if run.clip_by == "global_norm" else f", clipped by {run.clip_by}"
  return f"{run.network}{by}"


def _run(sweep: Sweep) -> bool:
  """Does what there is to do; returns whether a run has failed."""
  with contextlib.ExitStack() as stack:
    hosts.by_writer(_begin, sweep, stack)
    with signals.caught() as stop:
      try:
        _train(sweep, stop)
      except Stopped:
        _stopped(sweep, stop.number or signal.SIGTERM)
    return hosts.by_writer(_finish, sweep)


def _begin(sweep: Sweep, stack: contextlib.ExitStack) -> None:
  """Keeps others out of the folder while the stack is open, and makes the folder ready."""
  if sweep.shard is not None:
    stack.enter_context(access.runs_lock(sweep, access.runs_of(sweep)))
    access.prepare_shared(sweep)
    return
  local = flags.FLAGS.engine == "local"
  keep = locks.folder_lock if local else access.driver_lock
  stack.enter_context(keep(sweep.folder))
  access.prepare(sweep, flags.FLAGS.overwrite)


def _finish(sweep: Sweep) -> bool:
  if sweep.shard is None:
    return finish.finish(sweep.folder, sweep.ids)
  return finish.finish_shard(sweep.folder, list(sweep.ids), access.runs_of(sweep))


def _train(sweep: Sweep, stop: signals.Stop) -> None:
  """Trains the runs that have not ended; those that have failed if the flags say so."""
  done, wanted = hosts.by_writer(_to_do, sweep)
  if not hosts.is_writer():
    train_runs(sweep, wanted, stop, lambda *_: None)
    return
  ended = int(sum(done.values()))
  if ended:
    print(f"{ended} of {len(done)} runs have ended before and are kept.")
  with progress.show(len(done), ended, Console()) as report:

    def news(run: grid.Run, what: str, share: float, loss: float | None) -> None:
      done[sweep.names[run]] = share
      words = _words(run) if what == "training" else f"{_words(run)}: {what}"
      report(words, sum(done.values()), loss)

    engines.ENGINES[flags.FLAGS.engine](sweep, wanted, stop, news)


def _to_do(sweep: Sweep) -> tuple[dict[str, float], list[str]]:
  """How much of each run is done, and which are to be trained."""
  folder, retry = sweep.folder, flags.FLAGS.retry_failed
  done = {name: float(run_files.is_done(folder, name)) for name in access.runs_of(sweep)}
  return done, [n for n in done if not done[n] and (retry or not run_files.has_failed(folder, n))]


def _stopped(sweep: Sweep, number: int) -> NoReturn:
  """Ends a process that has stopped as it was asked to, and all others have."""
  writer = hosts.is_writer()
  hosts.leave()
  if not writer:
    exits.interrupted(status=128 + number)
  _interrupted(sweep, number)


def _interrupted(sweep: Sweep, number: int) -> NoReturn:
  own = access.runs_of(sweep)
  ended = sum(run_files.is_done(sweep.folder, name) for name in own)
  exits.interrupted(
    f"{ended} of {len(own)} runs have ended, their records are in {sweep.folder}. "
    "The same command goes on from there.",
    128 + number,
  )


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
