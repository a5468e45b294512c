"""Writes, finds, reads and deletes the checkpoints of rounds.

A round is a set of runs that are trained at the same time. Its checkpoints are in
`checkpoints/<hash of the round's run ids>/<step>`, and `runs.json` next to them lists the ids. The
checkpoints are deleted once every run of the round has finished or diverged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxtyping import PyTree

from experiments.runtime import exits, files
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import run_files
from experiments.sweep.records.record import Partial, Record
from rnn_jax import checkpoints


def path_of(folder: Path, ids: Sequence[str]) -> Path:
  """Returns the folder of a round's checkpoints; `folder` is the sweep's, `ids` are the run ids."""
  name = hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:16]
  return folder / "checkpoints" / name


class Writer:
  """Writes the checkpoints of a round while it is trained.

  Args:
    sweep: the sweep.
    ids: ids of the round's runs.
    saved_step: step of the checkpoint that the round resumed from; 0 if the round is new.
    code: key of the code that began the round, from `origins.key`; None if it is unknown.
  """

  def __init__(self, sweep: Sweep, ids: Sequence[str], saved_step: int, code: str | None):
    self._path = path_of(sweep.folder, ids)
    self._ids = ids
    self._code = code
    self._every = sweep.checkpoint_every
    self._configuration = _configuration(sweep, ids)
    self._saved_step = saved_step
    self._series = checkpoints.Series(self._path)

  def is_due(self, step: int) -> bool:
    """Returns whether the last checkpoint is at least `checkpoint_every` steps old."""
    return step - self._saved_step >= self._every

  def save(self, step: int, partial: Partial) -> None:
    """Copies the round's progress and writes it in the background.

    `step` is the next step to train.
    """
    _write_ids(self._path, self._ids, self._code)
    self._series.save(step, _to_tree(partial), self._configuration)
    self._saved_step = step

  def wait(self) -> None:
    """Blocks until the last checkpoint is on disk."""
    self._series.wait()

  def close(self) -> None:
    """Blocks until the last checkpoint is on disk, then ends the background thread."""
    self._series.close()


def _write_ids(path: Path, ids: Sequence[str], code: str | None = None) -> None:
  """Writes a round's run ids and code to `runs.json`, unless the file exists."""
  if not (path / "runs.json").exists():
    files.write_json(path / "runs.json", {"runs": list(ids), "code": code})


def codes(folder: Path) -> dict[str, object]:
  """Returns {id of a run that has a checkpoint: key of the code that began it, or None}."""
  return {name: code_of(path) for path, ids in every(folder) for name in ids}


def code_of(path: Path) -> object:
  """Returns the key of the code that began a round; None if it is unknown."""
  return files.read_json(path / "runs.json").get("code")


def _configuration(sweep: Sweep, ids: Sequence[str]) -> dict[str, object]:
  """Returns the configuration saved with a round's checkpoints.

  Training resumes from a checkpoint only if this configuration is unchanged.
  """
  return {"runs": list(ids), **sweep.shared}


def _to_tree(partial: Partial) -> dict[str, PyTree]:
  """Returns a round's progress as a dict whose keys are the names of leaves in a checkpoint."""
  return {**partial._asdict(), "records": partial.records._asdict()}


def _from_tree(tree: Mapping[str, PyTree]) -> Partial:
  return Partial(**{**tree, "records": Record(**tree["records"])})


def every(folder: Path) -> Iterator[tuple[Path, list[str]]]:
  """Yields (folder of checkpoints, run ids) for each round of a sweep that has checkpoints.

  A round whose `runs.json` is missing is skipped. A round whose `runs.json` is damaged is skipped
  with a warning.
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
  except FileNotFoundError:  # the process was killed before it wrote the file
    return []
  except (ValueError, KeyError, TypeError):
    pass
  exits.warn(f"{path / 'runs.json'} is damaged; the runs of this round restart from step 0.")
  return []


def newest(
  path: Path, sweep: Sweep, ids: Sequence[str], like: Callable[[int], Partial]
) -> Partial | None:
  """Returns the progress in a round's newest intact checkpoint; warns about newer, damaged ones.

  Args:
    path: folder of the round's checkpoints.
    sweep: the sweep.
    ids: ids of the round's runs.
    like: given the step of a checkpoint, returns the shapes and dtypes of the saved progress.
  Returns:
    The progress; None if there is no intact checkpoint.
  Raises:
    ValueError: if the checkpoint was saved with a different configuration.
  """
  saved = checkpoints.newest(path, _configuration(sweep, ids), lambda step: _to_tree(like(step)))
  for message in () if saved is None else saved.damaged:
    exits.warn(message)
  return None if saved is None or saved.step is None else _from_tree(saved.tree)


def remove(path: Path) -> None:
  """Deletes the checkpoints of one round."""
  shutil.rmtree(path, ignore_errors=True)


def clear(folder: Path) -> None:
  """Deletes the checkpoints of rounds whose runs have all finished or diverged.

  Such checkpoints are left over if resuming divided the runs into different rounds, because each
  round deletes only its own checkpoints. The caller must hold the folder's lock.
  """
  for path, ids in every(folder):
    if all(run_files.is_done(folder, name) for name in ids):
      remove(path)
  with contextlib.suppress(OSError):  # raised if the folder is missing or not empty
    (folder / "checkpoints").rmdir()
