"""Gathers what the shards of a sweep have come to.

  python -m experiments.merge FOLDER...

The folders are those that shards of one sweep have written, each its own or several the same. What
comes out is the folder of a sweep that was trained in one piece. The exit status is 0 if all runs
have ended, and 2 otherwise.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.cli import command_line
from experiments.runtime import files, locks
from experiments.sweep import finish
from experiments.sweep.records import folder as sweep_folder
from experiments.sweep.records import run_files
from rnn_jax.checkpoints import difference


def define_flags() -> None:
  """All flags of this program."""
  flags.DEFINE_string(
    "output_dir", None, "Folder for all runs together; the first FOLDER by default."
  )


def main(arguments: list[str]) -> None:
  """Merges the folders that the arguments name."""
  with command_line.errors_in_one_line("a folder could not be read or written"):
    failed = _merge(*_resolve(arguments))
  if failed:
    sys.exit(command_line.FAILED)


def _resolve(arguments: Sequence[str]) -> tuple[Path, list[Path]]:
  """The folder to write, and those to read."""
  if not arguments:
    raise ValueError("FOLDER must be named, one or several of them.")
  folders = list(dict.fromkeys(command_line.path("FOLDER", text) for text in arguments))
  for folder in folders:
    if not (folder / "sweep.json").is_file():
      raise ValueError(f"FOLDER must hold a sweep or a shard of one; there is none in {folder}.")
  name = flags.FLAGS.output_dir
  if name == "":
    raise ValueError("--output_dir must name a folder, got ''.")
  return folders[0] if name is None else command_line.path("output_dir", name), folders


def _merge(target: Path, folders: Sequence[Path]) -> bool:
  """Gathers all runs of the folders in one; returns whether a run has failed."""
  sweeps = [sweep_folder.read_sweep(folder) for folder in folders]
  first = sweeps[0]
  for folder, about in zip(folders, sweeps, strict=True):
    found = difference(about["configuration"], first["configuration"], older=True)
    if found is not None:
      raise ValueError(
        f"FOLDER must hold parts of one sweep, but {folder} differs from {folders[0]}: its {found}."
      )
  sweep_folder.check_folder(target, first["configuration"], overwrite=False)
  sources = [folder for folder in folders if folder.resolve() != target.resolve()]
  with contextlib.ExitStack() as stack:
    for folder in (target, *sources):
      stack.enter_context(locks.held_on(folder))
    ids = first["runs"]
    where = {name: _found(name, [target, *sources]) for name in ids}
    _begin(target, folders[0], sweeps)
    for name, source in where.items():
      if source is not None and source != target:
        run_files.write(target, name, run_files.read(source, name))
    missing = [name for name, source in where.items() if source is None]
    if missing:
      raise ValueError(
        f"FOLDER must hold all runs of the sweep: {len(missing)} of {len(ids)} have not ended, "
        f"{missing[0]} is the first; the others are in {target}."
      )
    return finish.finish(target, ids)


def _found(name: str, folders: Sequence[Path]) -> Path | None:
  """The first folder where the run has ended; or, if there is none, where it has failed.

  Raises:
    ValueError: it has ended in two of them, and not with the same records.
  """
  ended = [folder for folder in folders if sweep_folder.has_ended(folder, name)]
  for folder in ended[1:]:
    ours, theirs = (run_files.read(path, name) for path in (ended[0], folder))
    for record in run_files.RECORDS:
      if ours[record] != theirs[record]:
        raise ValueError(
          f"FOLDER must hold the same records of a run that it holds twice: {record} of {name} in "
          f"{folder} is not that in {ended[0]}."
        )
  failed = [folder for folder in folders if sweep_folder.has_failed(folder, name)]
  return next(iter(ended + failed), None)


def _begin(target: Path, first: Path, sweeps: Sequence[dict[str, Any]]) -> None:
  """Makes the target the folder of the sweep, with what each part was computed with."""
  if not (target / "sweep.json").exists():
    files.write_bytes(target / "sweep.flags", (first / "sweep.flags").read_bytes())
    files.write_json(target / "sweep.json", sweeps[0])
  for about in sweeps:
    for part in (about, *about.get("continued", [])):
      sweep_folder.note(target, part)


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
