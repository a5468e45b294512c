"""Where the checkpoints of a round are, and which runs they belong to.

A round is a set of runs that are trained at the same time. Its checkpoints are in
`checkpoints/<hash of the round's run ids>/<step>`, and `runs.json` next to them lists the ids. They
are deleted once every run of the round has finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.runtime import exits, files
from experiments.sweep.records import run_files


def path_of(folder: Path, ids: Sequence[str]) -> Path:
  """Returns the folder of a round's checkpoints, from the folder of the sweep and the run ids."""
  name = hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:16]
  return folder / "checkpoints" / name


def write_ids(path: Path, ids: Sequence[str]) -> None:
  """Writes the list of a round's runs next to its checkpoints, unless it exists."""
  if not (path / "runs.json").exists():
    files.write_json(path / "runs.json", {"runs": list(ids)})


def every(folder: Path) -> Iterator[tuple[Path, list[str]]]:
  """Yields (path, run ids) of all checkpointed rounds of a sweep.

  A round without a list of runs is skipped, with a warning if the list is damaged.
  """
  for path in sorted((folder / "checkpoints").glob("*/")):
    ids = _read_ids(path)
    if ids:
      yield path, ids


def _read_ids(path: Path) -> list[str]:
  try:
    ids = files.read_json(path / "runs.json")["runs"]
    if path_of(path.parents[1], ids) == path:
      return ids
  except FileNotFoundError:  # the process was killed before it wrote the list
    return []
  except (ValueError, KeyError, TypeError):
    pass
  exits.warn(f"{path / 'runs.json'} is damaged; the runs of this round restart from step 0.")
  return []


def remove(path: Path) -> None:
  """Deletes the checkpoints of one round."""
  shutil.rmtree(path, ignore_errors=True)


def clear(folder: Path) -> None:
  """Deletes checkpoints whose runs have all finished; the caller must hold the folder's lock.

  Runs that resume are regrouped into new rounds, which leaves the old rounds' checkpoints behind.
  """
  for path, ids in every(folder):
    if all(run_files.is_done(folder, name) for name in ids):
      remove(path)
  with contextlib.suppress(OSError):  # not empty, or missing
    (folder / "checkpoints").rmdir()
