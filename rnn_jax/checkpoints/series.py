"""The checkpoints of one training run, each in a folder named after its step.

STEP            a complete checkpoint
STEP.draft      a checkpoint that is being written or deleted
STEP.replaced   the old checkpoint of a step, while a new one is being renamed to STEP
"""

from __future__ import annotations

import concurrent.futures
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.checkpoints import checkpoint
from rnn_jax.checkpoints.configuration import as_json, difference
from rnn_jax.checkpoints.leaves import Copy, copies

_NAME = re.compile(
  rf"(0|[1-9][0-9]*)({re.escape(checkpoint.DRAFT)}|{re.escape(checkpoint.REPLACED)})?"
)


class Saved(NamedTuple):
  """The newest intact checkpoint of a series.

  Attributes:
    step: the checkpoint's step; None if every checkpoint is damaged.
    tree: the saved pytree, as `restore` returns it; None if every checkpoint is damaged.
    damaged: a message for each damaged checkpoint that is newer than this one, newest first.
  """

  step: int | None
  tree: PyTree
  damaged: list[str]


class Series:
  """Saves the checkpoints of one training run in the background, and deletes old ones.

  Once a new checkpoint is complete, all others are deleted except the `keep` − 1 before it.
  Checkpoints of later steps are deleted, too, because they are left over from a run that was then
  resumed at an earlier step.

  Args:
    folder: the folder of the run's checkpoints, which the first save creates. Incomplete
      checkpoints that a killed process has left there are deleted.
    keep: number of checkpoints to keep.
  Raises:
    TypeError, ValueError: if `keep` is not an integer of at least 1, or `folder` is not a path.
    OSError: if an incomplete checkpoint cannot be deleted.
  """

  def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
    self._folder = checks.path("folder", folder)
    self._keep = checks.integer("keep", keep)
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._saving: concurrent.futures.Future[None] | None = None
    _tidy(self._folder)

  def save(self, step: int, tree: PyTree, configuration: Mapping[str, object]) -> None:
    """Waits for the previous save, copies a pytree to the host, and writes it in the background.

    As soon as this method returns, the caller may change or donate the arrays.

    Args:
      step: the checkpoint's step. If the step already has a checkpoint, the new one replaces it
        once it is complete.
      tree: pytree of arrays and typed PRNG keys, as for `checkpoints.save`.
      configuration: JSON data; only a run with an equal configuration may resume from this
        checkpoint.
    Raises:
      TypeError: if `step` is not an integer, `configuration` is not JSON data, or a leaf is not an
        array of numbers.
      ValueError: if `step` is negative, two leaves have the same name, or a name contains '/'.
      OSError: if the *previous* save could not be written, in which case the new save does not
        start.
    """
    checks.integer("step", step, minimum=0)
    about: checkpoint.Contents = {"configuration": as_json(configuration)}
    self.wait()
    leaves = copies(tree)
    self._saving = self._thread.submit(self._write, step, leaves, about)

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      OSError: if the last save could not be written. The error is raised only once, by whichever of
        `save`, `wait` and `close` is called next.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def close(self) -> None:
    """Waits until the last save is on disk, and ends the background thread.

    Raises:
      OSError: if the last save could not be written, and no earlier call has raised the error.
    """
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def _write(self, step: int, leaves: dict[str, Copy], about: checkpoint.Contents) -> None:
    checkpoint.write(self._folder / str(step), leaves, about)
    found = _found(self._folder)
    earlier = [entry for entry in found if entry[0] <= step]
    for entry in found:
      if entry not in earlier[: self._keep]:
        _delete(entry[1])


def newest(
  folder: str | os.PathLike[str], configuration: Mapping[str, object], like: Callable[[int], PyTree]
) -> Saved | None:
  """Returns the newest intact checkpoint of a `Series`.

  Args:
    folder: the folder of the series.
    configuration: the configuration that the checkpoint must have been saved with.
    like: `step -> pytree` of arrays or shapes, with the structure of the pytree saved at that step.
  Returns:
    The checkpoint, with a message for each newer one, since every newer one is damaged. If all
    checkpoints are damaged, the result's step and tree are None. If the folder has no checkpoint,
    the result is None.
  Raises:
    TypeError: if `configuration` is not JSON data, `folder` is not a path, or `like` is not a
      function.
    ValueError: if a checkpoint has a different configuration or holds a different pytree; the
      message names the first difference.
  """
  wanted, damaged = as_json(configuration), list[str]()
  folder = checks.path("folder", folder)
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
  """Returns (step, path) of all complete checkpoints, newest first, STEP before STEP.replaced."""
  paths = sorted(folder.iterdir()) if folder.is_dir() else []
  matches = [(_NAME.fullmatch(path.name), path) for path in paths if path.is_dir()]
  found = [(int(match[1]), path) for match, path in matches if match]
  return sorted(
    (entry for entry in found if entry[1].suffix != checkpoint.DRAFT), key=lambda entry: -entry[0]
  )


def _tidy(folder: Path) -> None:
  """Cleans up after a killed process.

  Renames STEP.replaced back to STEP if STEP is missing. Deletes all other .replaced folders and all
  .draft folders.
  """
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if not (path.is_dir() and _NAME.fullmatch(path.name)):
      continue
    whole = path.with_suffix("")
    if path.suffix == checkpoint.REPLACED and not whole.exists():
      path.rename(whole)
    elif path.suffix:
      checkpoint.remove(path)


def _delete(path: Path) -> None:
  """Deletes a checkpoint; renames it to a draft first, so that `path` is never incomplete."""
  draft = path.with_name(path.name + checkpoint.DRAFT)
  checkpoint.remove(draft)
  path.rename(draft)
  checkpoint.remove(draft)
