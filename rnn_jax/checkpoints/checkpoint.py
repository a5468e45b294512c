"""One checkpoint: a folder that holds a pytree, and that gets its name only when it is complete.

arrays/           the leaves by name, in orbax's format, which `orbax.checkpoint.v1.load` reads
checkpoint.json   each leaf's dtype and shape; the hashes of all leaves, of all files in arrays/,
                  and of this file's own contents

orbax does not detect bit flips, and reports a truncated file only by a traceback from a background
thread. So before orbax reads the arrays, we verify every file's hash, and the dtypes and shapes
that the files declare; afterwards, every leaf's dtype, shape and hash.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.checkpoints.arrays import load_arrays, save_arrays
from rnn_jax.checkpoints.configuration import canonical
from rnn_jax.checkpoints.leaves import Copy, copies, describe, named, stored_shape

DRAFT = ".draft"  # suffix of a folder that is being written or deleted
REPLACED = ".replaced"  # suffix of an old checkpoint that a new one of the same name is replacing

_ARRAYS, _ABOUT = "arrays", "checkpoint.json"
# Free bytes that a save requires on the disk beyond the size of its arrays, because it also writes
# other files, and other processes may write at the same time.
_SPARE = 2**20
# Sizes in bytes above which nothing is read, far above what `save` writes: that of checkpoint.json,
# and that of all files in arrays/ together, beyond twice the size of the arrays.
_LARGEST = 2**26


class DamagedError(ValueError):
  """Raised if a file or leaf of a checkpoint is missing, or no longer matches what was written."""

  def __init__(self, path: Path, reason: str):
    super().__init__(f"{path} is damaged: {reason}.")


# A leaf's entry in checkpoint.json. "is": dtype and shape; "key": as `Copy.key`; "sha256": hash.
LeafRecord = TypedDict("LeafRecord", {"is": str, "key": str | None, "sha256": str})


class Contents(TypedDict, total=False):
  """The contents of checkpoint.json.

  Attributes:
    leaves: dtype, shape and hash of each leaf, by the leaf's name.
    files: hash of each file in arrays/, by its path inside the checkpoint.
    configuration: the argument of `Series.save`; absent if the checkpoint was written by `save`.
  """

  leaves: dict[str, LeafRecord]
  files: dict[str, str]
  configuration: dict[str, object]


def save(path: str | os.PathLike[str], tree: PyTree) -> None:
  """Writes a pytree into a new folder.

  Args:
    path: the folder, which must not exist yet.
    tree: pytree of arrays and typed PRNG keys, on any devices. They are stored as NumPy arrays,
      which can be restored on any device.
  Raises:
    TypeError: if `path` is not a path, or a leaf is not an array of numbers.
    ValueError: if the folder exists, two leaves have the same name, or a name contains '/'.
    OSError: if the folder cannot be written.
  """
  path = checks.path("path", path)
  if path.exists():
    raise ValueError(f"path must be a new folder, got {path}.")
  write(path, copies(tree), {})


def restore(path: str | os.PathLike[str], like: PyTree) -> PyTree:
  """Reads a pytree that `save` wrote.

  Args:
    path: the checkpoint's folder.
    like: pytree with the structure, shapes and dtypes of the saved one; its leaves may be arrays or
      `jax.ShapeDtypeStruct`s.
  Returns:
    The saved pytree: NumPy arrays and typed PRNG keys in the structure of `like`.
  Raises:
    TypeError: if `path` is not a path.
    ValueError: if there is no checkpoint at this path, if it is damaged, or if it holds a different
      pytree; the message names the first wrong file or leaf.
  """
  path = checks.path("path", path)
  if not path.is_dir():
    raise ValueError(f"path must hold a checkpoint, got {path} (no such folder).")
  return read(path, read_about(path), like)


def write(path: Path, leaves: Mapping[str, Copy], about: Contents) -> None:
  """Writes a checkpoint under a temporary name next to `path`, then renames it to `path`.

  An older checkpoint at this path is deleted only after the new one is in place.

  Args:
    path: the checkpoint's folder.
    leaves: the pytree's leaves, from `copies`.
    about: entries to store in checkpoint.json in addition to `leaves` and `files`, as JSON data.
  Raises:
    OSError: if the folder cannot be written; an older checkpoint at this path is then unchanged.
  """
  draft, replaced = (path.with_name(path.name + suffix) for suffix in (DRAFT, REPLACED))
  try:
    remove(draft)
    draft.mkdir(parents=True)
    # Empty arrays are left out, and so is arrays/ if none remains: orbax rejects empty arrays and
    # empty trees.
    arrays = {name: leaf.data for name, leaf in leaves.items() if leaf.data.size}
    # Checked in advance, because orbax prints tracebacks from background threads if the disk fills
    # up during a write.
    if shutil.disk_usage(draft).free < sum(array.nbytes for array in arrays.values()) + _SPARE:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if arrays:
      save_arrays(draft / _ARRAYS, arrays)
    records: dict[str, LeafRecord] = {
      name: {"is": leaf.description, "key": leaf.key, "sha256": _hash(leaf.data)}
      for name, leaf in leaves.items()
    }
    contents: Contents = {**about, "leaves": records, "files": dict(_hashes(draft))}
    checked = {"sha256": _sha256(canonical(contents)), "contents": contents}
    with (draft / _ABOUT).open("w", encoding="utf-8") as file:
      file.write(json.dumps(checked, indent=1) + "\n")
      file.flush()
      os.fsync(file.fileno())
    if path.exists():
      remove(replaced)
      path.rename(replaced)
    draft.rename(path)
    remove(replaced)
  except Exception:
    shutil.rmtree(draft, ignore_errors=True)  # frees space on a full disk
    raise


def read_about(path: Path) -> Contents:
  """Returns the contents of a checkpoint's checkpoint.json, after verifying their hash.

  Raises:
    DamagedError: if the file is missing, too large, or was changed.
  """
  file = path / _ABOUT
  # Reading a device or a pipe may never end.
  if file.exists() and not file.is_file():
    raise DamagedError(path, f"{_ABOUT} is not a regular file")
  if file.exists() and file.stat().st_size > _LARGEST:
    raise DamagedError(path, f"{_ABOUT} has more than {_LARGEST} bytes")
  try:
    found = json.loads(file.read_bytes())
    contents, expected = found["contents"], found["sha256"]
    intact = expected == _sha256(canonical(contents)) and _is_complete(contents)
  except OSError as error:
    raise DamagedError(path, f"{_ABOUT}: {error.strerror}") from None
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
    intact = False
  if not intact:
    raise DamagedError(path, f"{_ABOUT} differs from what was written")
  return contents


def _is_complete(contents: Contents) -> bool:
  """Returns whether contents have the entries of `Contents`; wrong types may raise an error."""
  leaves, configuration = contents["leaves"].values(), contents.get("configuration", {})
  return (
    all(leaf.keys() == {"is", "key", "sha256"} for leaf in leaves)
    and isinstance(configuration, dict)
    and isinstance(contents["files"], dict)
  )


def read(path: Path, about: Contents, like: PyTree) -> PyTree:
  """Returns the pytree that a checkpoint holds, after verifying every file and every leaf.

  Args:
    path: the checkpoint's folder.
    about: the contents of checkpoint.json, from `read_about`.
    like: pytree of arrays or shapes that the saved one must match, as for `restore`.
  Raises:
    DamagedError: if a file or leaf no longer matches what was written; the message names the first.
    ValueError: if `like` has different names, dtypes or shapes; the message names the first such
      leaf.
  """
  wanted, leaves = named(like), about["leaves"]
  for name in sorted(wanted.keys() | leaves.keys()):
    want = describe(wanted[name]) if name in wanted else "absent"
    have = leaves[name]["is"] if name in leaves else "absent"
    if want != have:
      raise ValueError(f"path must hold a checkpoint with {name} {want}, got {have} in {path}.")
  stored = {name: stored_shape(leaf) for name, leaf in wanted.items()}
  arrays_bytes = sum(math.prod(data.shape) * data.dtype.itemsize for data in stored.values())
  _check_files(path, about["files"], 2 * arrays_bytes + _LARGEST)
  try:
    arrays = load_arrays(path / _ARRAYS, stored) if about["files"] else {}
  except Exception as error:
    raise DamagedError(path, f"{_ARRAYS}: {error}") from None
  found = [_leaf(path, name, leaves[name], arrays.get(name), stored[name]) for name in wanted]
  return jax.tree.unflatten(jax.tree.structure(like), found)


def _check_files(path: Path, hashes: Mapping[str, str], largest: int) -> None:
  """Checks a checkpoint's files before orbax reads them.

  Args:
    path: the checkpoint's folder.
    hashes: the expected hash of each file in arrays/.
    largest: the most bytes that the files may have together.
  Raises:
    DamagedError: if a file is missing, was changed, or is not a regular file, or if the files are
      too large.
  """
  # orbax may read files without a hash, too.
  paths = [found for found in (path / _ARRAYS).rglob("*") if not found.is_dir()]
  for found in paths:
    if not found.is_file():  # reading a device or a pipe may never end
      raise DamagedError(path, f"{found.relative_to(path)} is not a regular file")
  if sum(found.stat().st_size for found in paths) > largest:
    raise DamagedError(path, f"{_ARRAYS} has more than {largest} bytes")
  # Names are looked up among the files that are there, because a path such as `../x` would lead out
  # of the checkpoint.
  present = {found.relative_to(path).as_posix() for found in paths}
  for name, expected in hashes.items():
    if name not in present:
      raise DamagedError(path, f"{name}: {os.strerror(errno.ENOENT)}")
    try:
      with (path / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
      raise DamagedError(path, f"{name}: {error.strerror}") from None
    if digest != expected:
      raise DamagedError(path, f"{name} differs from what was written")


def remove(path: Path) -> None:
  """Deletes a folder if it exists."""
  if path.is_dir():
    shutil.rmtree(path)


def _leaf(
  path: Path, name: str, about: LeafRecord, array: np.ndarray | None, stored: jax.ShapeDtypeStruct
) -> np.ndarray | jax.Array:
  """Returns one leaf of the restored pytree, after verifying the array that orbax read for it.

  Args:
    path: the checkpoint's folder, for the error message.
    name: the leaf's name, for the error message.
    about: the leaf's entry in checkpoint.json.
    array: the array that orbax read; None if arrays/ has no array of this name.
    stored: the array's shape and dtype, from `stored_shape`.
  Raises:
    DamagedError: if dtype, shape or hash differ from those in checkpoint.json.
  """
  if array is None:
    if math.prod(stored.shape):  # only empty arrays are not in arrays/, since orbax rejects them
      raise DamagedError(path, f"{name} differs from what was written")
    array = np.zeros(stored.shape, stored.dtype)
  data = np.asarray(array)
  key = about["key"]
  try:
    leaf = data if key is None else jax.random.wrap_key_data(jnp.asarray(data), impl=key)
    intact = describe(leaf) == about["is"] and _hash(data) == about["sha256"]
  except (TypeError, ValueError):  # an unknown key implementation
    intact = False
  if not intact:
    raise DamagedError(path, f"{name} differs from what was written")
  return leaf


def _hash(array: np.ndarray) -> str:
  return _sha256(array.reshape(-1).view(np.uint8).data if array.size else b"")


def _sha256(data: bytes | memoryview) -> str:
  return hashlib.sha256(data).hexdigest()


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
  """Yields (relative path, hash) of each file in a folder, and flushes each file to the disk."""
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    with path.open("rb") as file:
      yield path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()
      os.fsync(file.fileno())
