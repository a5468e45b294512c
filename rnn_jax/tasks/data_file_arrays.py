"""Reads the arrays of the task `data_file` from an .npz file, and checks them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from rnn_jax import checks

ARRAYS = ("xs", "targets", "lengths")
# The dtype of targets of each kind: labels, classes (signed or unsigned), or values.
_TARGETS: Mapping[str, type[np.generic]] = {
  "b": np.bool_,
  "i": np.int32,
  "u": np.int32,
  "f": np.float32,
}


class Examples(NamedTuple):
  """N sequences of T steps, batch-major. Sequences shorter than T begin with padding.

  Attributes:
    xs: vectors, float32 [N, T, D], padded with zeros; or tokens, int32 [N, T], padded with an
      additional token, the last one of the vocabulary.
    targets: at the last step, classes int32 [N], values float32 [N, O] or labels bool [N, K]; or
      at every step, int32 [N, T], float32 [N, T, O] or bool [N, T, K].
    lengths: int32 [N], number of steps after the padding.
  """

  xs: Shaped[np.ndarray, "N T ..."]
  targets: Shaped[np.ndarray, "N ..."]
  lengths: Int[np.ndarray, " N"]


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], str]:
  """Returns (the arrays of an .npz file by name, the SHA-256 of the file's bytes).

  Raises:
    ValueError: if the file cannot be read, or is not an .npz file of arrays.
  """
  with checks.readable_file("data_file", path), path.open("rb") as file:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if not zipfile.is_zipfile(file):
      raise ValueError(f"data_file must be an .npz file, as numpy.savez writes it, got {path}.")
    file.seek(0)
    return _arrays(file), sha256


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz file by name.

  Raises:
    ValueError: if one cannot be read; the message names it.
    OSError: if the file cannot be read.
  """
  name = "list"
  try:
    archive = np.load(file, allow_pickle=False)
    found = {}
    for name in archive.files:
      found[name] = archive[name]
      if not isinstance(found[name], np.ndarray):
        raise TypeError("not an array")
    return found
  except OSError:
    raise
  except Exception as error:  # a damaged file raises any of a dozen exceptions
    reason = str(error).split("\n")[0] or type(error).__name__
    raise ValueError(
      f"data_file must hold arrays of numbers, but its {name} cannot be read ({reason})."
    ) from None


def checked_examples(
  arrays: Mapping[str, np.ndarray], xs_name: str, targets_name: str, lengths_name: str
) -> Examples:
  """Returns the arrays of one part, checked, with zeros in the steps that lengths leave out.

  Sequences begin at the first step, as in the file.

  Args:
    arrays: the file's arrays by name.
    xs_name, targets_name, lengths_name: names of the part's arrays.
  Raises:
    ValueError: if an array is missing, or not as `load_data_file` describes.
  """
  for name in (xs_name, targets_name):
    if name not in arrays:
      raise ValueError(f"array {name} is missing, got {', '.join(sorted(arrays)) or 'no array'}.")
  xs, targets = arrays[xs_name], arrays[targets_name]
  for name, given in ((xs_name, xs), (targets_name, targets)):
    if given.dtype.kind not in _TARGETS:
      raise ValueError(f"{name} must hold floats, integers or booleans, got {checks.shown(given)}.")
    if given.size == 0:
      raise ValueError(f"{name} must not be empty, got {checks.shown(given)}.")
  is_token = xs.ndim == 2 and xs.dtype.kind != "f"
  if xs.ndim != 3 and not is_token:
    hint = f" For one number a step, save {xs_name}[..., None]." if xs.ndim == 2 else ""
    raise ValueError(
      f"{xs_name} must be vectors [N, T, D] or integer tokens [N, T], got {checks.shown(xs)}.{hint}"
    )
  count, num_steps = xs.shape[:2]
  lengths = arrays.get(lengths_name, np.full(count, num_steps))
  _check_lengths(lengths_name, lengths, count, num_steps)
  if len(targets) != count:
    raise ValueError(
      f"{targets_name} must hold targets of the {count} sequences of {xs_name}, got "
      f"{checks.shown(targets)}."
    )
  every_step = _check_targets(targets_name, targets, num_steps)
  valid = np.arange(num_steps) < lengths[:, None]
  xs = _converted(xs_name, xs, valid, np.int32 if is_token else np.float32)
  counted = valid if every_step else np.ones(count, bool)
  targets = _converted(targets_name, targets, counted, _TARGETS[targets.dtype.kind])
  return Examples(xs, targets, lengths.astype(np.int32))


def _check_lengths(name: str, lengths: np.ndarray, count: int, num_steps: int) -> None:
  if lengths.dtype.kind not in "iu" or lengths.shape != (count,):
    raise ValueError(
      f"{name} must be integers [N], one for each of the {count} sequences, got "
      f"{checks.shown(lengths)}."
    )
  if lengths.min() < 1 or lengths.max() > num_steps:
    raise ValueError(
      f"{name} must be from 1 to the {num_steps} steps of a sequence, got {lengths.min()} to "
      f"{lengths.max()}."
    )


def _check_targets(name: str, targets: np.ndarray, num_steps: int) -> bool:
  """Returns whether there is a target at every step, after checking the shape."""
  shown = checks.shown(targets)
  if targets.dtype.kind in "iu":
    if targets.ndim == 1 or targets.shape[1:] == (num_steps,):
      return targets.ndim == 2
    raise ValueError(
      f"{name} of integers must be classes [N] or [N, T], with T = {num_steps}, got {shown}. Save "
      "values as floats, and labels as booleans."
    )
  if targets.ndim == 3 and targets.shape[1] == num_steps:
    return True
  if targets.ndim == 2 and (num_steps == 1 or targets.shape[1] != num_steps):
    return False
  is_label = targets.dtype.kind == "b"
  kind, one, size = ("booleans", "label", "K") if is_label else ("floats", "value", "O")
  hint = f"one {one} for each sequence" if targets.ndim == 1 else f"one {one} a step"
  hint = f" For {hint}, save {name}[..., None]." if targets.ndim < 3 else ""
  raise ValueError(
    f"{name} of {kind} must be {one}s [N, {size}] or [N, T, {size}], with T = {num_steps}, got "
    f"{shown}. Save classes as integers.{hint}"
  )


def _converted(
  name: str, values: np.ndarray, valid: Bool[np.ndarray, "N ..."], dtype: type[np.generic]
) -> np.ndarray:
  """Returns the values as float32, int32 or bool, with 0 or False where `valid` is False.

  Raises:
    ValueError: if a valid one is not finite, negative (of integers), or out of the dtype's range.
  """
  where = valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim))
  if not valid.all():
    values = np.where(where, values, np.zeros_like(values))
  if dtype == np.bool_:
    return values
  if dtype == np.int32:
    if values.min() < 0 or values.max() >= 2**31 - 1:
      raise ValueError(
        f"{name} must hold integers from 0 to {2**31 - 2}, got {values.min()} to {values.max()}."
      )
    return values.astype(np.int32)
  with np.errstate(over="ignore"):
    values = values.astype(np.float32)
  finite = np.isfinite(values)
  if not finite.all():
    place = np.argwhere(~finite)[0].tolist()
    raise ValueError(
      f"{name} must be finite in float32, got {values[tuple(place)]} in {name}{place}."
    )
  return values
