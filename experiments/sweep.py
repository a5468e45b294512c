"""Sweeps cell, depth and truncation, and records how the gradient flows through time.

  python -m experiments.sweep --flagfile=experiments/flagfiles/gradient_decay.flags

Comma lists multiply. Runs that can share a compiled program do. Started again with the same output
folder, it skips the runs that have finished and goes on with the rest.
"""

from __future__ import annotations

import contextlib
import datetime
import signal
import sys
from typing import Any, NoReturn

from absl import flags
from rich.console import Console

from experiments import (
  backend,
  bad_step,
  cell_table,
  command_line,
  compilation_cache,
  grid,
  hosts,
  locks,
  plots,
  progress,
  provenance,
  records,
  results,
  signals,
  sweep_flags,
  work,
)
from experiments.sweep_flags import Sweep


def define_flags() -> None:
  """All flags of the sweep."""
  sweep_flags.define()
  flags.adopt_module_key_flags(sweep_flags)  # so that --help shows them


def main(arguments: list[str]) -> None:
  """Runs the sweep that the flags describe."""
  console = Console()
  if flags.FLAGS.list_cells:
    cell_table.show()
    return
  with hosts.joined():
    _main(arguments, console)


def _main(arguments: list[str], console: Console) -> None:
  try:
    sweep = sweep_flags.resolve(arguments)
  except (ValueError, TypeError) as error:
    command_line.fail(str(error))
  if flags.FLAGS.dry_run:
    if hosts.is_writer():
      _print_plan(sweep)
    return
  compilation_cache.use(flags.FLAGS.compilation_cache)
  try:
    with command_line.errors_in_one_line("--output_dir could not be read or written"):
      failed = _run(sweep, console)
  except KeyboardInterrupt:
    _interrupted(sweep, signal.SIGINT)
  if failed:
    sys.exit(command_line.FAILED)


def _print_plan(sweep: Sweep) -> None:
  groups = grid.groups(sweep.ids.values())
  names = {run: name for name, run in sweep.ids.items()}
  for runs in groups.values():
    print(f"{_words(runs[0])}: one compilation, {len(runs)} runs")
    for run in runs:
      print(f"  {names[run]}")
  print(
    f"{len(sweep.ids)} runs, {len(groups)} groups, {len(groups)} compilations, "
    f"{len(sweep.layout.devices)} devices; nothing was written."
  )


def _words(run: grid.Run) -> str:
  """The group of a run, as a reader is told of it."""
  by = "" if run.clip_by == "global_norm" else f", clipped by {run.clip_by}"
  return f"{run.network}{by}"


def _run(sweep: Sweep, console: Console) -> bool:
  """Does what there is to do; returns whether a run has failed."""
  with contextlib.ExitStack() as stack:
    hosts.by_writer(stack.enter_context, locks.held_on(sweep.folder))
    hosts.by_writer(_prepare, sweep)
    with signals.noted() as stop:
      try:
        _train(sweep, stop, console)
      except work.Stopped:
        _stopped(sweep, stop.number or signal.SIGTERM)
    return hosts.by_writer(_finish, sweep)


def _prepare(sweep: Sweep) -> None:
  overwrite = flags.FLAGS.overwrite
  # Once more: it may be another's since.
  records.check_folder(sweep.folder, sweep.configuration, overwrite)
  lines = grid.flagfile(sweep.settings, sweep.axes, sweep.options)
  records.prepare_folder(sweep.folder, sweep.configuration, _about(sweep), lines, overwrite)


def _train(sweep: Sweep, stop: signals.Stop, console: Console) -> None:
  """Trains the runs that have not ended; those that have failed if the flags say so."""
  done, wanted = hosts.by_writer(_to_do, sweep)
  if not hosts.is_writer():
    work.train(sweep, wanted, stop, lambda *_: None)
    return
  ended = int(sum(done.values()))
  if ended:
    print(f"{ended} of {len(done)} runs have ended before and are kept.")
  with progress.show(len(done), ended, console) as report:

    def news(run: grid.Run, what: str, share: float, loss: float | None) -> None:
      done[sweep.names[run]] = share
      words = _words(run) if what == "training" else f"{_words(run)}: {what}"
      report(words, sum(done.values()), loss)

    work.train(sweep, wanted, stop, news)


def _to_do(sweep: Sweep) -> tuple[dict[str, float], list[str]]:
  """How much of each run is done, and which are to be trained."""
  folder, retry = sweep.folder, flags.FLAGS.retry_failed
  done = {name: float(records.has_ended(folder, name)) for name in sweep.ids}
  return done, [n for n in done if not done[n] and (retry or not records.has_failed(folder, n))]


def _finish(sweep: Sweep) -> bool:
  """Gathers the records, draws, and says how it went; returns whether a run has failed."""
  folder = sweep.folder
  states = {name: records.status(folder, name) for name in sweep.ids}
  by_status = {
    status: {name: state for name, state in states.items() if state["status"] == status}
    for status in ("finished", "diverged", "failed")
  }
  diverged, failed = by_status["diverged"], by_status["failed"]
  pictures = []
  if len(failed) < len(states):
    gradients, metrics = results.write(folder, sweep.ids)
    pictures = plots.save_all(gradients, metrics, folder / "figures")
  for name, state in diverged.items():
    where = bad_step.words(bad_step.place_of(state.get("bad_place")))
    print(f"diverged at step {state['diverged_step']}: {name}: {where}")
  for name, state in failed.items():
    print(f"failed: {name}: {state['reason']}")
  print(f"{len(states) - len(failed)} runs have ended, {len(diverged)} of them diverged.")
  if failed:
    print(f"{len(failed)} runs have failed; --retry_failed tries them again.")
  print(f"Records are in {folder}" + (f", pictures in {folder / 'figures'}:" if pictures else "."))
  if pictures:
    print(f"  begin with {pictures[0]}")
  return bool(failed)


def _stopped(sweep: Sweep, number: int) -> NoReturn:
  """Ends a process that has stopped as it was asked to, and all others have."""
  writer = hosts.is_writer()
  hosts.leave()
  if not writer:
    command_line.interrupted("", 128 + number)
  _interrupted(sweep, number)


def _interrupted(sweep: Sweep, number: int) -> NoReturn:
  ended = sum(records.has_ended(sweep.folder, name) for name in sweep.ids)
  command_line.interrupted(
    f"{ended} of {len(sweep.ids)} runs have ended, their records are in {sweep.folder}. "
    "The same command goes on from there.",
    128 + number,
  )


def _about(sweep: Sweep) -> dict[str, Any]:
  """What else a reader of the records must know."""
  corpus = sweep.corpus
  return {
    "runs": list(sweep.ids),
    "task": {"loss_unit": sweep.task.unit, "baseline": sweep.task.baseline},
    "corpus": corpus
    and {
      "name": corpus.name,
      "sha256": corpus.sha256,
      "characters": len(corpus.text),
      "vocabulary_size": corpus.vocabulary.size,
    },
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": provenance.versions((*provenance.PACKAGES, "xarray")),
    "devices": [str(device) for device in sweep.layout.devices],
    "data_parallel": sweep.layout.data_parallel,
    "runs_per_device": sweep.layout.runs_per_device,
    "matmul_precision": backend.MATMUL_PRECISION,
    "git": provenance.git(),
  }


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
