"""One checkpoint: a folder that appears atomically. The only module that uses orbax.

arrays/           the leaves by name, in orbax's format: `orbax.checkpoint.v1.load` reads them
checkpoint.json   dtypes and shapes; a hash of every leaf, of every file, and of its own contents

orbax does not detect bit flips, and reports a truncated file only by a traceback from a background
thread. So we verify every file's hash before handing it to orbax, and every leaf's dtype, shape and
hash after.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
from jaxtyping import PyTree, Shaped
from orbax.checkpoint import v1 as ocp

from rnn_jax import checks
from rnn_jax.checkpoints.configuration import canonical

DRAFT = ".draft"  # suffix of a folder that is being written or deleted
REPLACED = ".replaced"  # suffix of a folder whose successor is about to take its name

_ARRAYS, _ABOUT = "arrays", "checkpoint.json"
# Free bytes needed in addition to the arrays: for other files, and for other processes' writes.
_SPARE = 2**20

Leaf = jax.Array | np.ndarray | np.number | np.bool_ | jax.ShapeDtypeStruct

# A background thread of orbax prints the traceback of an error that its caller raises as well.
logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)


class DamagedError(ValueError):
  """The files are not the ones that were written."""

  def __init__(self, path: Path, reason: str):
    super().__init__(f"{path} is damaged: {reason}.")


class Copy(NamedTuple):
  """A leaf in the host's memory.

  Attributes:
    description: its dtype and shape.
    key: the implementation of a typed key; None for an array.
    data: the array, or the key's data.
  """

  description: str
  key: str | None
  data: Shaped[np.ndarray, "*shape"]


# "is": dtype and shape; "key": the implementation of a typed key.
LeafRecord = TypedDict("LeafRecord", {"is": str, "key": str | None, "sha256": str})


class Contents(TypedDict, total=False):
  """The contents of checkpoint.json.

  Attributes:
    leaves: by name.
    files: hash of every file, by path inside the checkpoint.
    configuration: what `Series.save` was given.
  """

  leaves: dict[str, LeafRecord]
  files: dict[str, str]
  configuration: dict[str, object]


def save(path: Path, tree: PyTree) -> None:
  """Writes a pytree into a new folder.

  Args:
    path: the folder; must not exist.
    tree: arrays and typed keys, on any devices. They are stored as NumPy arrays, which can be
      restored on any device.
  Raises:
    TypeError: the path is not a Path, or a leaf not an array of numbers.
    ValueError: the folder exists, two leaves have the same name, or a name contains '/'.
    OSError: the folder cannot be written.
  """
  if checks.instance("path", path, Path).exists():
    raise ValueError(f"path must be a new folder, got {path}.")
  write(path, copies(tree), {})


def restore(path: Path, like: PyTree) -> PyTree:
  """Reads a pytree that `save` wrote.

  Args:
    path: the folder.
    like: arrays or shapes, in the structure, shapes and dtypes of the saved pytree.
  Returns:
    A pytree of NumPy arrays and typed keys, like `like`.
  Raises:
    TypeError: the path is not a Path.
    ValueError: there is no checkpoint, it is damaged, or it holds a different pytree; names the
      first wrong file or leaf.
  """
  if not checks.instance("path", path, Path).is_dir():
    raise ValueError(f"path must hold a checkpoint, got {path} (no such folder).")
  return read(path, read_about(path), like)


def copies(tree: PyTree) -> dict[str, Copy]:
  """Returns a pytree's leaves by name, copied to the host's memory.

  Raises:
    TypeError, ValueError: as `save`.
  """
  found = {}
  for name, leaf in _named(tree).items():
    if isinstance(leaf, jax.ShapeDtypeStruct):
      raise TypeError(f"tree must hold arrays of numbers, got the shape {leaf} in {name}.")
    key = _is_key(leaf)
    if not (key or jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_):
      raise TypeError(f"tree must hold arrays of numbers, got {leaf.dtype} in {name}.")
    data = jax.random.key_data(leaf) if key else leaf
    # `np.asarray` of an array on a CPU device would be a view of that device's memory.
    data = np.array(data, data.dtype.newbyteorder("="), order="C")
    found[name] = Copy(_describe(leaf), str(jax.random.key_impl(leaf)) if key else None, data)
  return found


def write(path: Path, leaves: Mapping[str, Copy], about: Contents) -> None:
  """Writes a checkpoint next to its final path, then renames it; an older one is deleted last.

  Args:
    path: the folder.
    leaves: from `copies`.
    about: further contents of checkpoint.json, JSON data.
  Raises:
    OSError: the folder cannot be written; an older checkpoint at this path is unchanged.
  """
  draft, replaced = (path.with_name(path.name + suffix) for suffix in (DRAFT, REPLACED))
  try:
    remove(draft)
    draft.mkdir(parents=True)
    # orbax refuses empty arrays and empty trees.
    arrays = {name: leaf.data for name, leaf in leaves.items() if leaf.data.size}
    # If a disk fills up during a write, orbax prints tracebacks from background threads.
    if shutil.disk_usage(draft).free < sum(array.nbytes for array in arrays.values()) + _SPARE:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if arrays:
      _save_arrays(draft / _ARRAYS, arrays)
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
  """Returns the contents of checkpoint.json.

  Raises:
    DamagedError: the file is missing or was changed.
  """
  try:
    found = json.loads((path / _ABOUT).read_bytes())
    contents, expected = found["contents"], found["sha256"]
  except OSError as error:
    raise DamagedError(path, f"{_ABOUT}: {error.strerror}") from None
  except (ValueError, TypeError, KeyError, RecursionError):
    contents, expected = {}, None
  if expected != _sha256(canonical(contents)):
    raise DamagedError(path, f"{_ABOUT} is not as it was written")
  return contents


def read(path: Path, about: Contents, like: PyTree) -> PyTree:
  """Returns the pytree of a checkpoint.

  Args:
    path: the folder.
    about: from `read_about`.
    like: as for `restore`.
  Raises:
    DamagedError: naming the first file or leaf that was changed.
    ValueError: naming the first leaf that differs from that of `like`.
  """
  wanted, leaves = _named(like), about["leaves"]
  for name in sorted(wanted.keys() | leaves.keys()):
    want = _describe(wanted[name]) if name in wanted else "absent"
    have = leaves[name]["is"] if name in leaves else "absent"
    if want != have:
      raise ValueError(f"path must hold a checkpoint with {name} {want}, got {have} in {path}.")
  for name, expected in about["files"].items():
    try:
      with (path / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
      raise DamagedError(path, f"{name}: {error.strerror}") from None
    if digest != expected:
      raise DamagedError(path, f"{name} is not as it was written")
  try:
    arrays = _load_arrays(path / _ARRAYS) if about["files"] else {}
  except Exception as error:
    raise DamagedError(path, f"{_ARRAYS}: {error}") from None
  found = [_leaf(path, name, leaves[name], arrays.get(name), leaf) for name, leaf in wanted.items()]
  return jax.tree.unflatten(jax.tree.structure(like), found)


def remove(path: Path) -> None:
  """Deletes a folder if it exists."""
  if path.is_dir():
    shutil.rmtree(path)


def _named(tree: PyTree) -> dict[str, Leaf]:
  """Returns the leaves by name."""
  named: dict[str, Leaf] = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if name in named:
      raise ValueError(f"tree must have a name for each leaf, got '{name}' twice.")
    if "/" in name:  # orbax would make folders of it
      raise ValueError(f"tree must have names without '/', got '{name}'.")
    named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
  return named


def _leaf(
  path: Path, name: str, about: LeafRecord, array: np.ndarray | None, like: Leaf
) -> np.ndarray | jax.Array:
  """Returns a leaf; refuses it unless it is the one that was written."""
  if array is None:  # an empty array, which orbax does not store
    empty = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
    array = np.zeros(empty.shape, empty.dtype)
  data = np.asarray(array)
  leaf = (
    data if about["key"] is None else jax.random.wrap_key_data(jnp.asarray(data), impl=about["key"])
  )
  if _describe(leaf) != about["is"] or _hash(data) != about["sha256"]:
    raise DamagedError(path, f"{name} is not as it was written")
  return leaf


def _is_key(leaf: Leaf) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Leaf) -> str:
  return f"{leaf.dtype.name}{list(leaf.shape)}"


def _hash(array: np.ndarray) -> str:
  return _sha256(array.reshape(-1).view(np.uint8).data if array.size else b"")


def _sha256(data: bytes | memoryview) -> str:
  return hashlib.sha256(data).hexdigest()


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
  """Yields (name, hash) of each file in a folder, after flushing it to the disk."""
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    with path.open("rb") as file:
      yield path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()
      os.fsync(file.fileno())


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  # `ocp.save` waits for all processes of `jax.distributed`; here only the first one writes.
  only = orbax.checkpoint.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix="first"
  )
  handler = orbax.checkpoint.PyTreeCheckpointHandler(multiprocessing_options=only)
  try:
    with orbax.checkpoint.Checkpointer(handler, multiprocessing_options=only) as checkpointer:
      checkpointer.save(path.absolute(), arrays)
  except OSError:
    raise
  except Exception as error:
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None:
      raise OSError(f"{path}: {error}") from error
    raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
  context = ocp.Context()
  context.multiprocessing.active_processes = {jax.process_index()}
  context.multiprocessing.primary_host = jax.process_index()
  context.multiprocessing.barrier_sync_key_prefix = f"process_{jax.process_index()}"
  with context:
    return ocp.load(path.absolute())
