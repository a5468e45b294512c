"""One checkpoint, a folder that is there whole or not at all: the only place that uses orbax.

arrays/           the leaves by name, as orbax keeps them: `orbax.checkpoint.v1.load` reads them
checkpoint.json   what they are; a hash of every leaf, of every file, and of what it says itself

orbax reads a flipped bit without a word, and a file that was cut with a traceback from a thread of
its own. So it is given no file whose hash is not the one that was written, and no leaf is taken
from it whose dtype, shape and bytes are not.
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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
from orbax.checkpoint import v1 as ocp

from rnn_jax.checkpoints.configuration import canonical

DRAFT = ".draft"  # of a folder that is being written or deleted
REPLACED = ".replaced"  # of one whose successor is about to take its name

_ARRAYS, _ABOUT = "arrays", "checkpoint.json"
# Bytes beside the arrays: those of the other files, and of what others may write meanwhile.
_SPARE = 2**20

# A thread of orbax prints the traceback of what it then raises to its caller as well.
logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)


class DamagedError(ValueError):
  """What is there is not what was written."""

  def __init__(self, path: Path, reason: str):
    super().__init__(f"{path} is damaged: {reason}.")


class Copy(NamedTuple):
  """A leaf in the host's memory.

  Attributes:
    words: its dtype and shape.
    key: the implementation of a typed key; None for an array.
    data: the array, or the key's data.
  """

  words: str
  key: str | None
  data: np.ndarray


def save(path: Path, tree: Any) -> None:
  """Writes a pytree into a new folder.

  Args:
    path: the folder; must not exist.
    tree: of arrays on any device, typed keys among them; they are kept as NumPy arrays, for any
      device to read.
  Raises:
    TypeError: a leaf is no array of numbers.
    ValueError: the folder exists, two leaves have the same name, or one has a '/' in it.
    OSError: it cannot be written.
  """
  if path.exists():
    raise ValueError(f"path must be a new folder, got {path}.")
  write(path, copies(tree), {})


def restore(path: Path, like: Any) -> Any:
  """Reads what `save` wrote.

  Args:
    path: the folder.
    like: a pytree of arrays or shapes, as it must be.
  Returns:
    A pytree of NumPy arrays, and of typed keys, in the structure, shapes and dtypes of `like`.
  Raises:
    ValueError: there is no checkpoint, it is damaged, or it is of something else; with the first
      file or leaf that is not as it must be.
  """
  if not path.is_dir():
    raise ValueError(f"path must hold a checkpoint, got {path} (no such folder).")
  return read(path, read_about(path), like)


def copies(tree: Any) -> dict[str, Copy]:
  """A pytree's leaves by name, copied to the host's memory.

  Raises:
    TypeError, ValueError: as `save`.
  """
  found = {}
  for name, leaf in _named(tree).items():
    key = _is_key(leaf)
    if not (key or jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_):
      raise TypeError(f"tree must hold arrays of numbers, got {leaf.dtype} in {name}.")
    data = jax.random.key_data(leaf) if key else leaf
    # Uncopied, an array on the CPU would be the device's own memory.
    data = np.array(data, data.dtype.newbyteorder("="), order="C")
    found[name] = Copy(_words(leaf), str(jax.random.key_impl(leaf)) if key else None, data)
  return found


def write(path: Path, leaves: Mapping[str, Copy], about: Mapping[str, Any]) -> None:
  """Writes a checkpoint beside its place, then moves it there; one that was there goes last.

  Args:
    path: the folder.
    leaves: from `copies`.
    about: JSON data, what else checkpoint.json is to say.
  Raises:
    OSError: it cannot be written; what was there is there.
  """
  draft, replaced = (path.with_name(path.name + suffix) for suffix in (DRAFT, REPLACED))
  try:
    remove(draft)
    draft.mkdir(parents=True)
    # orbax refuses arrays without elements, and a tree without arrays.
    arrays = {name: leaf.data for name, leaf in leaves.items() if leaf.data.size}
    # Where a disk fills up while it writes, orbax prints tracebacks from threads of its own.
    if shutil.disk_usage(draft).free < sum(array.nbytes for array in arrays.values()) + _SPARE:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if arrays:
      _save_arrays(draft / _ARRAYS, arrays)
    described = {
      name: {"is": leaf.words, "key": leaf.key, "sha256": _hash(leaf.data)}
      for name, leaf in leaves.items()
    }
    contents = {**about, "leaves": described, "files": dict(_hashes(draft))}
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
    shutil.rmtree(draft, ignore_errors=True)  # a full disk needs the room
    raise


def read_about(path: Path) -> dict[str, Any]:
  """What checkpoint.json says.

  Raises:
    DamagedError: it is not what was written.
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


def read(path: Path, about: Mapping[str, Any], like: Any) -> Any:
  """The pytree of a checkpoint.

  Args:
    path: the folder.
    about: from `read_about`.
    like: as for `restore`.
  Returns:
    As `restore`.
  Raises:
    DamagedError: naming the first file or leaf that is not as it was written.
    ValueError: naming the first leaf that `like` has not so.
  """
  wanted, leaves = _named(like), about["leaves"]
  for name in sorted(wanted.keys() | leaves.keys()):
    want = _words(wanted[name]) if name in wanted else "absent"
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
  """Deletes a folder, where there is one."""
  if path.is_dir():
    shutil.rmtree(path)


def _named(tree: Any) -> dict[str, Any]:
  """The leaves by name."""
  named: dict[str, Any] = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if name in named:
      raise ValueError(f"tree must have a name for each leaf, got '{name}' twice.")
    if "/" in name:  # which orbax takes for folders
      raise ValueError(f"tree must have names without '/', got '{name}'.")
    named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
  return named


def _leaf(path: Path, name: str, about: Mapping[str, Any], array: Any, like: Any) -> Any:
  """One leaf, if it is as it was written."""
  if array is None:  # it has no elements
    empty = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
    array = np.zeros(empty.shape, empty.dtype)
  data: Any = np.asarray(array)
  leaf = data if about["key"] is None else jax.random.wrap_key_data(data, impl=about["key"])
  if _words(leaf) != about["is"] or _hash(data) != about["sha256"]:
    raise DamagedError(path, f"{name} is not as it was written")
  return leaf


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _words(leaf: Any) -> str:
  return f"{leaf.dtype.name}{list(leaf.shape)}"


def _hash(array: np.ndarray) -> str:
  return _sha256(array.reshape(-1).view(np.uint8) if array.size else b"")


def _sha256(data: Any) -> str:
  return hashlib.sha256(data).hexdigest()


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
  """(name, hash) of all files in a folder, each of them on the disk by then."""
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    with path.open("rb") as file:
      yield path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()
      os.fsync(file.fileno())


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  # `ocp.save` waits for all processes that jax knows. This writes in the first alone.
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
