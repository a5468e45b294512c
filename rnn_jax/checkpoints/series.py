"""Checkpoints of a training, one after another, each in a folder that is called as its step.

STEP.draft is one that is being written or deleted, STEP.replaced one whose successor is about to
take its name.
"""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rnn_jax import checks
from rnn_jax.checkpoints import checkpoint
from rnn_jax.checkpoints.configuration import as_json, difference

_NAME = re.compile(
  rf"(0|[1-9][0-9]*)({re.escape(checkpoint.DRAFT)}|{re.escape(checkpoint.REPLACED)})?"
)


class Saved(NamedTuple):
  """A checkpoint that was found.

  Attributes:
    step: its step; None where every checkpoint is damaged.
    tree: what was saved, as `restore` returns it; None where every checkpoint is damaged.
    damaged: what is wrong with each of the newer ones, in words.
  """

  step: int | None
  tree: Any
  damaged: list[str]


class Series:
  """Saves one step after another in the background, and lets the old ones go.

  The last `keep` are kept. The others go once the new one is whole; so do those of later steps,
  which a training that goes on from an earlier one has left behind.

  Args:
    folder: of the checkpoints, all of one training; the first save makes it. What a process that
      was killed has left there half written, or half deleted, is deleted.
    keep: how many.
  Raises:
    TypeError, ValueError: `keep` is no integer of at least 1.
    OSError: what was left cannot be deleted.
  """

  def __init__(self, folder: Path, keep: int = 2):
    self._folder = folder
    self._keep = checks.integer("keep", keep)
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._saving: concurrent.futures.Future[None] | None = None
    _tidy(folder)

  def save(self, step: int, tree: Any, configuration: Mapping[str, Any]) -> None:
    """Copies a pytree to the host's memory, and writes it in the background.

    Waits for the save before. Once this returns, the arrays may change or be donated.

    Args:
      step: its number; a checkpoint of the same step is replaced once this one is whole.
      tree: as for `checkpoints.save`.
      configuration: JSON data; only a training with the same may go on from here.
    Raises:
      TypeError: the step is no integer, the configuration no JSON data, or as `checkpoints.save`.
      ValueError: the step is negative, or as `checkpoints.save`.
      OSError: the save *before* this one could not be written; this one has not begun.
    """
    checks.integer("step", step, minimum=0)
    about = {"configuration": as_json(configuration)}
    self.wait()
    leaves = checkpoint.copies(tree)
    self._saving = self._thread.submit(self._write, step, leaves, about)

  def wait(self) -> None:
    """Returns once all is written.

    Raises:
      OSError: the last save could not be written. It is raised once, here or by the next call.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def close(self) -> None:
    """Waits, and ends the thread.

    Raises:
      OSError: as `wait`.
    """
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def _write(self, step: int, leaves: dict[str, checkpoint.Copy], about: dict[str, Any]) -> None:
    checkpoint.write(self._folder / str(step), leaves, about)
    found = _found(self._folder)
    earlier = [entry for entry in found if entry[0] <= step]
    for entry in found:
      if entry not in earlier[: self._keep]:
        _delete(entry[1])


def newest(
  folder: Path, configuration: Mapping[str, Any], like: Callable[[int], Any]
) -> Saved | None:
  """The newest checkpoint of a `Series` that is whole.

  Args:
    folder: of the series.
    configuration: what it must have been saved with.
    like: `step -> pytree` of arrays or shapes, as that step's must be.
  Returns:
    The checkpoint, with a word on each newer one that is damaged; without step and tree where all
    are. None where there is none.
  Raises:
    TypeError: the configuration is no JSON data.
    ValueError: a checkpoint is of another configuration, with the first difference, or of another
      tree, with the first leaf that differs.
  """
  wanted, damaged = as_json(configuration), list[str]()
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
  """(step, checkpoint), from the newest; one that was to be replaced after its successor."""
  paths = sorted(folder.iterdir()) if folder.is_dir() else []
  matches = [(_NAME.fullmatch(path.name), path) for path in paths if path.is_dir()]
  found = [(int(match[1]), path) for match, path in matches if match]
  return sorted(
    (entry for entry in found if entry[1].suffix != checkpoint.DRAFT), key=lambda entry: -entry[0]
  )


def _tidy(folder: Path) -> None:
  """Ends what a process that was killed had begun."""
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if not (path.is_dir() and _NAME.fullmatch(path.name)):
      continue
    whole = path.with_suffix("")
    if path.suffix == checkpoint.REPLACED and not whole.exists():
      path.rename(whole)
    elif path.suffix:
      checkpoint.remove(path)


def _delete(path: Path) -> None:
  """Deletes a checkpoint; under its name it is whole until it is gone."""
  draft = path.with_name(path.name + checkpoint.DRAFT)
  checkpoint.remove(draft)
  path.rename(draft)
  checkpoint.remove(draft)
