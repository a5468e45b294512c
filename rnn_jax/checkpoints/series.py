"""The checkpoints of one training run, each in a folder named after its step.

STEP.draft is a checkpoint that is being written or deleted, STEP.replaced one whose successor is
about to take its name.
"""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.checkpoints import checkpoint
from rnn_jax.checkpoints.configuration import as_json, difference

_NAME = re.compile(
  rf"(0|[1-9][0-9]*)({re.escape(checkpoint.DRAFT)}|{re.escape(checkpoint.REPLACED)})?"
)


class Saved(NamedTuple):
  """The newest intact checkpoint of a series.

  Attributes:
    step: its step; None if every checkpoint is damaged.
    tree: the saved pytree, as `restore` returns it; None if every checkpoint is damaged.
    damaged: a message for each newer checkpoint, which is damaged.
  """

  step: int | None
  tree: PyTree
  damaged: list[str]


class Series:
  """Saves checkpoints in the background, and deletes old ones.

  The last `keep` checkpoints are kept. Once a new one is complete, the others are deleted, and so
  are those of later steps: they are left over from before training resumed at an earlier step.

  Args:
    folder: of the checkpoints of one training run; the first save creates it. Incomplete
      checkpoints that a killed process has left are deleted.
    keep: number of checkpoints to keep.
  Raises:
    TypeError, ValueError: `keep` is not an integer of at least 1, or `folder` not a Path.
    OSError: an incomplete checkpoint cannot be deleted.
  """

  def __init__(self, folder: Path, keep: int = 2):
    self._folder = checks.instance("folder", folder, Path)
    self._keep = checks.integer("keep", keep)
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._saving: concurrent.futures.Future[None] | None = None
    _tidy(folder)

  def save(self, step: int, tree: PyTree, configuration: Mapping[str, object]) -> None:
    """Copies a pytree to the host's memory, and writes it in the background.

    It first waits for the previous save. After it returns, the arrays may be changed or donated.

    Args:
      step: step of the checkpoint; an existing one of this step is replaced once the new one is
        complete.
      tree: as for `checkpoints.save`.
      configuration: JSON data; only a run with the same configuration may resume from here.
    Raises:
      TypeError: the step is not an integer, the configuration is not JSON data, or as
        `checkpoints.save`.
      ValueError: the step is negative, or as `checkpoints.save`.
      OSError: the *previous* save could not be written; this one has not started.
    """
    checks.integer("step", step, minimum=0)
    about: checkpoint.Contents = {"configuration": as_json(configuration)}
    self.wait()
    leaves = checkpoint.copies(tree)
    self._saving = self._thread.submit(self._write, step, leaves, about)

  def wait(self) -> None:
    """Waits until everything is written.

    Raises:
      OSError: the last save could not be written. It is raised once, here or by the next call.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def close(self) -> None:
    """Waits until everything is written, and ends the background thread.

    Raises:
      OSError: as `wait`.
    """
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def _write(
    self, step: int, leaves: dict[str, checkpoint.Copy], about: checkpoint.Contents
  ) -> None:
    checkpoint.write(self._folder / str(step), leaves, about)
    found = _found(self._folder)
    earlier = [entry for entry in found if entry[0] <= step]
    for entry in found:
      if entry not in earlier[: self._keep]:
        _delete(entry[1])


def newest(
  folder: Path, configuration: Mapping[str, object], like: Callable[[int], PyTree]
) -> Saved | None:
  """Returns the newest intact checkpoint of a `Series`.

  Args:
    folder: of the series.
    configuration: the one with which it was saved.
    like: `step -> pytree` of arrays or shapes, like the pytree saved at that step.
  Returns:
    The checkpoint, with a message for each newer one, which is damaged; without step and tree if
    all are damaged. None if the folder has no checkpoint.
  Raises:
    TypeError: the configuration is not JSON data, `folder` not a Path, or `like` not a function.
    ValueError: a checkpoint has another configuration or holds another pytree; names the first
      difference.
  """
  wanted, damaged = as_json(configuration), list[str]()
  checks.instance("folder", folder, Path)
  checks.function("like", like)
  for step, path in _found(folder):
    try:
      about = checkpoint.read_about(path)
      other = difference(about.get("configuration", {}), wanted)
      if other is not None:
        raise ValueError(f"{path} is a checkpoint of another configuration: its {other}.")
      return Saved(step, checkpoint.read(path, about, like(step)), damaged)
    except checkpoint.DamagedError as error:
      damaged.append(str(error))
  return Saved(None, None, damaged) if damaged else None


def _found(folder: Path) -> list[tuple[int, Path]]:
  """Returns (step, checkpoint), newest first; a replaced checkpoint comes after its successor."""
  paths = sorted(folder.iterdir()) if folder.is_dir() else []
  matches = [(_NAME.fullmatch(path.name), path) for path in paths if path.is_dir()]
  found = [(int(match[1]), path) for match, path in matches if match]
  return sorted(
    (entry for entry in found if entry[1].suffix != checkpoint.DRAFT), key=lambda entry: -entry[0]
  )


def _tidy(folder: Path) -> None:
  """Finishes or undoes the changes that a killed process had started."""
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if not (path.is_dir() and _NAME.fullmatch(path.name)):
      continue
    whole = path.with_suffix("")
    if path.suffix == checkpoint.REPLACED and not whole.exists():
      path.rename(whole)
    elif path.suffix:
      checkpoint.remove(path)


def _delete(path: Path) -> None:
  """Deletes a checkpoint. Renaming it first keeps its name from ever meaning a partial one."""
  draft = path.with_name(path.name + checkpoint.DRAFT)
  checkpoint.remove(draft)
  path.rename(draft)
  checkpoint.remove(draft)
