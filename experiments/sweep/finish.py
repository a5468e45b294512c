"""The end of a sweep: gathers the records of all runs, draws the figures, and prints a summary."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments.runtime import exits
from experiments.sweep.figures import gradients as figures
from experiments.sweep.records import (
  gathered,
  origins,
  round_checkpoints,
  run_files,
  sweep_folder,
)
from experiments.sweep.records.record import nonfinite_from_json, nonfinite_text


def finish(folder: Path, ids: Iterable[str]) -> bool:
  """Gathers the records, draws the figures and prints a summary; returns whether a run failed.

  Args:
    folder: the sweep's folder.
    ids: ids of all runs of the sweep, in the order of the grid; each run must have finished,
      diverged or failed.
  """
  states = run_files.statuses(folder, ids)
  diverged, failed = (
    {name: state for name, state in states.items() if state["status"] == status}
    for status in ("diverged", "failed")
  )
  round_checkpoints.clear(folder)
  origins.warn_if_mixed([sweep_folder.read_sweep(folder)], states)
  pictures = []
  if len(failed) < len(states):
    gradients, metrics = gathered.write(folder, states)
    pictures = figures.save_all(gradients, metrics, folder / "figures")
  for name, state in diverged.items():
    where = nonfinite_text(nonfinite_from_json(state.get("bad_place")))
    print(exits.printable(f"diverged at step {state['diverged_step']}: {name}: {where}"))
  finished = len(states) - len(diverged) - len(failed)
  print(f"Runs: {finished} finished, {len(diverged)} diverged, {len(failed)} failed.")
  _print_failed(failed)
  print(f"Records are in {folder}" + (f", figures in {folder / 'figures'}:" if pictures else "."))
  if pictures:
    print(f"  start with {pictures[0]}")
    command = f"python -m experiments.report {shlex.quote(str(folder))}"
    print(f"For a page with interactive figures: {exits.printable(command)}")
  return bool(failed)


def finish_shard(folder: Path, ids: Sequence[str], own: Sequence[str]) -> bool:
  """Prints a summary of a shard's runs; returns whether one of them failed.

  Args:
    folder: the sweep's folder.
    ids: ids of all runs of the sweep.
    own: ids of the shard's runs.
  """
  states = run_files.statuses(folder, ids)
  failed = {name: states[name] for name in own if states[name].get("status") == "failed"}
  print(f"This shard: {len(own) - len(failed)} of {len(own)} runs done, {len(failed)} failed.")
  _print_failed(failed)
  here = sum(state.get("status") in run_files.ENDED for state in states.values())
  print(
    f"{folder} holds {here} of the {len(ids)} runs of the sweep. When all shards are done, gather "
    "them with: python -m experiments.merge FOLDER..."
  )
  return bool(failed)


def _print_failed(states: Mapping[str, run_files.Status]) -> None:
  """Prints each failed run with the reason, and how to retry failed runs."""
  for name, state in states.items():
    print(exits.printable(f"failed: {name}: {state['reason']}"))
  if states:
    print("To retry failed runs, run the same command with --retry_failed.")
