"""Functions that write files atomically, so that a reader never sees a half-written one.

They neither follow nor replace symbolic links, and they do not replace devices or pipes. Functions
that read check a file's type and size before its contents.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Sizes in bytes above which a JSON file, or any other file of a record, is not read. The files that
# we write are far smaller.
LARGEST_JSON = 2**26
LARGEST_RECORD = 2**32


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
  """Yields a temporary path to write to; it replaces `path` if the block raises no error.

  Args:
    path: the file to replace.
    durable: whether the new contents must survive a power failure right after the block. If not,
      the block need not wait for the disk; a power failure may leave the file empty.
  Raises:
    ValueError: if `path` or the temporary path exists, but is not a regular file.
  """
  draft = path.with_name(path.name + ".tmp")
  check_replaceable(path)
  check_replaceable(draft)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except FileNotFoundError:  # another process removed an empty parent folder meanwhile
    path.parent.mkdir(parents=True, exist_ok=True)
  yield draft
  if durable:
    with draft.open("rb+") as file:
      os.fsync(file.fileno())
  draft.replace(path)


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
  """Writes bytes atomically; `durable` is explained in `replacing`."""
  with replacing(path, durable) as draft:
    draft.write_bytes(data)


def write_text(path: Path, text: str) -> None:
  """Writes text atomically, as UTF-8."""
  write_bytes(path, text.encode())


def write_json(path: Path, data: Mapping[str, object], durable: bool = True) -> None:
  """Writes a JSON object atomically; `durable` is explained in `replacing`."""
  write_bytes(path, (json.dumps(data, indent=2) + "\n").encode(), durable)


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    ValueError: if the file is not a regular one, is larger than `LARGEST_JSON`, or does not hold a
      JSON object.
  """
  text = read_bytes(path, LARGEST_JSON)
  try:
    data = json.loads(text)
  except (ValueError, RecursionError):
    data = None
  if not isinstance(data, dict):
    raise ValueError(f"{path} is damaged: it must hold a JSON object.")
  return data


def read_bytes(path: Path, largest: int = LARGEST_RECORD) -> bytes:
  """Returns the contents of a file.

  Raises:
    ValueError: if the file is not a regular one, or has more than `largest` bytes.
  """
  check_readable(path, largest)
  return path.read_bytes()


def check_readable(path: Path, largest: int | None = None) -> None:
  """Checks that a path leads to a regular file, since reading a device or a pipe may never end.

  Args:
    path: the file.
    largest: the largest size in bytes that the file may have; None for any.
  Raises:
    ValueError: if the file is not a regular one, or too large.
    OSError: if there is no such file.
  """
  found = path.stat()
  _check_regular(path, found)
  if largest is not None and found.st_size > largest:
    raise ValueError(f"{path} must have at most {largest} bytes, got {found.st_size}.")


def check_replaceable(path: Path) -> None:
  """Checks that a path is free, or that of a regular file, which another file may replace.

  Raises:
    ValueError: if there is a folder, a symbolic link, a device or a pipe at this path.
  """
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    _check_regular(path, path.lstat())


def check_no_links(*paths: Path) -> None:
  """Checks that no path is a symbolic link, or is a folder that contains one at any depth.

  A program that writes to a folder would otherwise write or delete files outside of it.

  Raises:
    ValueError: if there is a symbolic link; the message names it.
  """
  for path in paths:
    for file in (path, *map(Path, _links(path))):
      # submitit leaves links with such names in a sweep's slurm_logs. No program follows them.
      if file.is_symlink() and not file.name.startswith(".submission_file_"):
        raise ValueError(
          f"The output folder must not contain symbolic links, got {file}. Replace the link with "
          "what it points to, or choose another folder."
        )


def _links(folder: str | Path) -> Iterator[str]:
  """Yields the paths of the symbolic links in a folder, at any depth.

  It yields nothing for a path that is not a folder, and skips folders that cannot be read.
  """
  folders = [folder]
  while folders:
    with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
      for entry in entries:
        if entry.is_symlink():
          yield entry.path
        elif entry.is_dir():
          folders.append(entry.path)


def remove(*paths: Path) -> None:
  """Deletes those files and folders that exist, or none if permissions forbid deleting any of them.

  Raises:
    OSError: if one cannot be deleted.
  """
  parents = [path.parent for path in paths if path.exists()]
  inside = [Path(at) for path in paths for at, *_ in os.walk(path)]
  for folder in (*parents, *inside):
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
  for path in paths:
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)


def _check_regular(path: Path, found: os.stat_result) -> None:
  if not stat.S_ISREG(found.st_mode):
    kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "device or socket")
    raise ValueError(f"{path} must be a regular file, got a {kind}.")
