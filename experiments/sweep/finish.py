"""The end of a sweep: all runs gathered and drawn, and a word on how it went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.sweep.figures import figures
from experiments.sweep.records import folder as sweep_folder
from experiments.sweep.records import results
from experiments.sweep.training import divergence
from experiments.sweep.training import train as training


def finish(folder: Path, ids: Iterable[str]) -> bool:
  """Gathers the records, draws, and says how it went; returns whether a run has failed.

  Args:
    folder: of the sweep.
    ids: of its runs, in order; all have ended or failed.
  """
  states = {name: sweep_folder.status(folder, name) for name in ids}
  diverged, failed = (
    {name: state for name, state in states.items() if state["status"] == status}
    for status in ("diverged", "failed")
  )
  training.clear(folder)
  pictures = []
  if len(failed) < len(states):
    gradients, metrics = results.write(folder, states)
    pictures = figures.save_all(gradients, metrics, folder / "figures")
  for name, state in diverged.items():
    where = divergence.words(divergence.place_of(state.get("bad_place")))
    print(f"diverged at step {state['diverged_step']}: {name}: {where}")
  print_failed(folder, failed)
  print(f"{len(states) - len(failed)} runs have ended, {len(diverged)} of them diverged.")
  if failed:
    print(f"{len(failed)} runs have failed; --retry_failed tries them again.")
  print(f"Records are in {folder}" + (f", pictures in {folder / 'figures'}:" if pictures else "."))
  if pictures:
    print(f"  begin with {pictures[0]}")
  return bool(failed)


def finish_shard(folder: Path, ids: Sequence[str], own: Sequence[str]) -> bool:
  """Says how the runs of a shard went; returns whether one has failed.

  Args:
    folder: of the sweep.
    ids: of its runs.
    own: those of the shard.
  """
  failed = [name for name in own if sweep_folder.has_failed(folder, name)]
  print_failed(folder, failed)
  print(f"{len(own) - len(failed)} of the {len(own)} runs of this shard have ended.")
  if failed:
    print(f"{len(failed)} runs have failed; --retry_failed tries them again.")
  over = sum(sweep_folder.has_ended(folder, n) or sweep_folder.has_failed(folder, n) for n in ids)
  print(
    f"{over} of the {len(ids)} runs of the sweep are in {folder}; once the folders of all shards "
    "hold all of them, python -m experiments.merge FOLDER... gathers them."
  )
  return bool(failed)


def print_failed(folder: Path, ids: Iterable[str]) -> None:
  """A line for each run that has failed, with the reason."""
  for name in ids:
    print(f"failed: {name}: {sweep_folder.status(folder, name)['reason']}")
