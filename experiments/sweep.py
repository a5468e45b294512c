"""Sweeps cell, depth and truncation, and records how the gradient flows through time.

  python -m experiments.sweep --flagfile=experiments/flagfiles/gradient_decay.flags

Comma lists multiply. Runs that can share a compiled program do. Started again with the same output
folder, it skips the runs that have finished and goes on with the rest.
"""

from __future__ import annotations

import datetime
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from absl import flags
from rich.console import Console

from experiments import (
  backend,
  bad_step,
  cell_table,
  command_line,
  compilation_cache,
  grid,
  plots,
  progress,
  provenance,
  records,
  results,
  sweep_flags,
)
from experiments.runner import Program, Record, compile_group, train_group
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
  try:
    sweep = sweep_flags.resolve(arguments)
  except (ValueError, TypeError) as error:
    command_line.fail(str(error))
  if flags.FLAGS.dry_run:
    _print_plan(sweep)
    return
  compilation_cache.use(flags.FLAGS.compilation_cache)
  try:
    _run(sweep, console)
  except KeyboardInterrupt:
    ended = sum(records.has_ended(sweep.folder, name) for name in sweep.ids)
    command_line.interrupted(
      f"{ended} of {len(sweep.ids)} runs have ended, their records are in {sweep.folder}. "
      "The same command goes on from there."
    )
  except BrokenPipeError:
    raise
  except OSError as error:
    command_line.fail(f"--output_dir could not be read or written: {error}.")
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    reason = str(error).strip().split("\n")[0]
    command_line.fail(f"a run failed, its records are not complete: {reason}.")


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


def _run(sweep: Sweep, console: Console) -> None:
  folder, settings = sweep.folder, sweep.settings
  lines = grid.flagfile(settings, sweep.axes, sweep.options)
  records.prepare_folder(folder, sweep.configuration, _about(sweep), lines, flags.FLAGS.overwrite)
  names = {run: name for name, run in sweep.ids.items()}
  # How much of each run is done, from 0 to 1.
  done = {run: float(records.has_ended(folder, name)) for run, name in names.items()}
  ended = int(sum(done.values()))
  if ended:
    print(f"{ended} of {len(names)} runs have ended before and are kept.")

  interrupted = _note_interrupts()
  with progress.show(len(names), ended, console) as report:

    def on_records(run: grid.Run, step: int, part: Record) -> None:
      if interrupted.is_set():
        raise KeyboardInterrupt
      if step == 0:
        records.start_run(folder, names[run], grid.config(run, settings, sweep.sha256))
      records.append_metrics(folder, names[run], step, part)
      done[run] = (step + len(part.loss)) / (settings.steps + 1)
      report(_words(run), sum(done.values()), float(part.loss[-1]))

    groups = grid.groups(run for run in done if done[run] < 1)
    programs = _programs(list(groups.values()), sweep)
    for runs in groups.values():
      report(f"{_words(runs[0])}: compiling", sum(done.values()), None)
      program = next(programs)
      for result in train_group(program, runs, settings, sweep.task, sweep.layout, on_records):
        bad = bad_step.of(result, settings, sweep.task)
        records.end_run(folder, names[result.run], result, settings, bad)
        done[result.run] = 1.0
  gradients, metrics = results.write(folder, sweep.ids)
  pictures = plots.save_all(gradients, metrics, folder / "figures")
  states = {name: records.status(folder, name) for name in sweep.ids}
  diverged = {name: state for name, state in states.items() if state["status"] == "diverged"}
  for name, state in diverged.items():
    where = bad_step.words(bad_step.place_of(state.get("bad_place")))
    print(f"diverged at step {state['diverged_step']}: {name}: {where}")
  print(f"{len(names)} runs have ended, {len(diverged)} of them diverged.")
  print(f"Records are in {folder}, pictures in {folder / 'figures'}:")
  print(f"  begin with {pictures[0]}")


def _programs(groups: Sequence[Sequence[grid.Run]], sweep: Sweep) -> Iterator[Program]:
  """The program of each group; while one is in use, a thread compiles the next."""
  # Not closed at the end, as Ctrl-C and errors should not wait for a compilation.
  thread = ThreadPoolExecutor(1)

  def compiled(runs: Sequence[grid.Run]) -> Future[Program]:
    return thread.submit(compile_group, runs, sweep.settings, sweep.task, sweep.layout)

  ahead = compiled(groups[0])
  for following in groups[1:]:
    program, ahead = ahead.result(), compiled(following)
    yield program
  yield ahead.result()


def _note_interrupts() -> threading.Event:
  """An event beside the exception of Ctrl-C, which is lost if it comes inside a callback of jax."""
  happened = threading.Event()

  def handle(*_: Any) -> None:
    happened.set()
    raise KeyboardInterrupt

  signal.signal(signal.SIGINT, handle)
  return happened


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
