"""Locks on a file's bytes, which end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
  """Bytes of a file, which need not be there.

  Attributes:
    first: the first of them.
    size: how many; 0 for all from there on.
    shared: whether others may hold them too, who share them.
  """

  first: int = 0
  size: int = 0
  shared: bool = False


@contextlib.contextmanager
def held(path: Path, *spans: Span, wait: bool = False) -> Iterator[None]:
  """Holds a lock on some of a file's bytes while the block runs.

  The kernel frees it if the process dies before. Other processes are kept out, on other machines
  too where the file is on NFS, but not this one: as it closes the file it loses all that it holds
  there, so it must not hold two spans of one file by two calls.

  Args:
    path: of a file that stands for the lock; it is made, and left where it is.
    spans: which bytes; all of them by default.
    wait: until those go who hold it.
  Raises:
    BlockingIOError: another process holds it, and this one does not wait.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a+b") as file:
    for span in spans or [Span()]:
      how = fcntl.LOCK_SH if span.shared else fcntl.LOCK_EX
      fcntl.lockf(file, how | (0 if wait else fcntl.LOCK_NB), span.size, span.first)
    yield


@contextlib.contextmanager
def held_on(folder: Path, *spans: Span) -> Iterator[None]:
  """Holds the lock of an output folder, `.lock`, or some of its bytes, while the block runs.

  Raises:
    ValueError: another process holds it.
  """
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(held(folder / ".lock", *spans))
    except BlockingIOError:
      raise ValueError(
        f"--output_dir must be a folder in which no other process is at work, got {folder}."
      ) from None
    yield
