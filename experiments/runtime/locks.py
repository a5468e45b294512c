"""Locks on byte ranges of a file, on Linux and macOS.

The kernel releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.runtime import exits

try:
  import fcntl
except ImportError:
  exits.fail("this command needs Linux or macOS; on Windows, use WSL.")

LOCK = ".lock"  # the lock file in an output folder


class ByteRange(NamedTuple):
  """A range of a file's bytes, which may lie beyond the end of the file.

  Attributes:
    first: index of the first byte.
    size: number of bytes; 0 for all bytes from `first`.
    shared: whether other processes may hold a shared lock on the same bytes.
  """

  first: int = 0
  size: int = 0
  shared: bool = False


@contextlib.contextmanager
def file_lock(path: Path, *ranges: ByteRange, wait: bool = False) -> Iterator[None]:
  """Holds a lock on byte ranges of a file while the block runs.

  The lock excludes other processes, including those on other machines if the file is on NFS. It
  does not exclude this process. A process must not nest two calls on one file, because the kernel
  releases all of the process's locks on the file when the inner call closes it.

  Args:
    path: the file; it is created if needed, and never removed.
    ranges: byte ranges to lock; the whole file by default.
    wait: whether to block until the current holders release the ranges.
  Raises:
    BlockingIOError: if another process holds the lock and `wait` is False.
    OSError: if the file cannot be opened, or is a symbolic link.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  # Through a symbolic link, a file outside the folder would be created.
  descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
  with os.fdopen(descriptor, "r+b", buffering=0) as file:
    for span in ranges or [ByteRange()]:
      mode = fcntl.LOCK_SH if span.shared else fcntl.LOCK_EX
      fcntl.lockf(file, mode | (0 if wait else fcntl.LOCK_NB), span.size, span.first)
    yield


@contextlib.contextmanager
def folder_lock(folder: Path, *ranges: ByteRange) -> Iterator[None]:
  """Holds a lock on the file `.lock` of an output folder, or on byte ranges of that file.

  Raises:
    ValueError: if another process holds the lock.
  """
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(file_lock(folder / LOCK, *ranges))
    except BlockingIOError:
      raise ValueError(
        f"--output_dir must not be in use by another process, got {folder}. Wait for that process "
        "to end, or choose another folder."
      ) from None
    yield
