"""Locks on a folder, which end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[None]:
  """Holds a lock while the block runs; the kernel frees it if the process dies before.

  Args:
    path: of a file that stands for the lock; it is made, and left where it is.
    shared: whether others may hold it too, who share it.
  Raises:
    BlockingIOError: another process holds it.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a") as file:
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    yield


@contextlib.contextmanager
def held_on(folder: Path) -> Iterator[None]:
  """Holds the lock of an output folder, `.lock`, while the block runs.

  Raises:
    ValueError: another process holds it.
  """
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(held(folder / ".lock"))
    except BlockingIOError:
      raise ValueError(
        f"--output_dir must be a folder of which no other process is at work, got {folder}."
      ) from None
    yield
