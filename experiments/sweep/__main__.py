"""Trains networks over a grid of settings, and records how the gradient flows through time.

  python -m experiments.sweep --flagfile=gradient_decay

A comma list of values spans an axis of the grid, such as cell, depth, truncation or seed. Runs that
differ only in numbers such as the seed or the learning rate share a compiled program. Running the
same command again resumes an interrupted sweep: finished runs are kept, and unfinished runs resume
from their checkpoints. The same command with more seeds or values trains only the missing runs.
With `--engine`, Ray or SLURM trains the runs; with `--num_shards`, this process trains only some.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from experiments.cli import command_line, flag_table
from experiments.networks import cell_table
from experiments.runtime import backend, compilation_cache, exits, hosts
from experiments.sweep import execution
from experiments.sweep.config import engine_flags
from experiments.sweep.config import flags as sweep_flags
from experiments.sweep.config.groups import by_group, group_name
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.execution import count, varied
from experiments.sweep.measures import table
from experiments.sweep.records import locking

TABLE = sweep_flags.TABLE


def define_flags() -> None:
  """Defines the flags of this command."""
  sweep_flags.define()


def main(arguments: list[str]) -> None:
  """Runs the sweep that the flags describe, or prints a table if a `--list_…` flag is given."""
  if flags.FLAGS.list_cells is not None:
    cell_table.show(flags.FLAGS.list_cells)
  elif flags.FLAGS.list_measures:
    table.show()
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
    sweeps = execution.stages(flag_table.given(TABLE))
  if flags.FLAGS.dry_run:
    if hosts.is_writer():
      _print_plan(sweeps)
    return
  compilation_cache.use(flags.FLAGS.compilation_cache)
  with command_line.errors_in_one_line("--output_dir could not be read or written"):
    failed = execution.run_stages(sweeps, _run_or_exit)
  if failed:
    sys.exit(exits.FAILED)


def _run_or_exit(sweep: Sweep) -> bool:
  """Runs a sweep, and returns whether a run failed; exits if the sweep is stopped."""
  try:
    return execution.run(sweep, quits=True)
  except execution.Interrupted as error:
    _stopped(sweep, error.number)
  except KeyboardInterrupt:
    _interrupted(sweep, signal.SIGINT)


def _print_plan(sweeps: Sequence[Sweep]) -> None:
  """Prints the runs that this process would train first, by group, each of them compiled once."""
  sweep, *following = sweeps
  runs = [sweep.ids[name] for name in locking.runs_of(sweep)]
  groups = by_group(runs)
  for group in groups.values():
    print(f"{group_name(group[0], varied(sweep))}: one compilation, {count(len(group), 'run')}")
    for run in group:
      print(f"  {sweep.names[run]}")
  for text in sweep.no_effect:
    print(text)
  print(
    f"{count(len(runs), 'run')}, {count(len(groups), 'group')}, "
    f"{count(len(groups), 'compilation')}, {count(len(sweep.layout.devices), 'device')}; "
    "nothing was written."
  )
  for chosen in following:
    seeds = count(len(chosen.axes["seed"]), "seed")
    print(f"Then the chosen values of {chosen.select} are trained with {seeds}.")


def _stopped(sweep: Sweep, number: int) -> NoReturn:
  """Exits with status 128 + `number`, after all processes that train together have stopped."""
  is_writer = hosts.is_writer()
  hosts.leave()
  if not is_writer:
    exits.interrupted(status=128 + number)
  _interrupted(sweep, number)


def _interrupted(sweep: Sweep, number: int) -> NoReturn:
  text = execution.progress_text(sweep)
  exits.interrupted(f"{text} Run the same command again to resume.", 128 + number)


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
