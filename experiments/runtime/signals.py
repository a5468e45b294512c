"""Being asked to stop, by SIGTERM or by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any


class Stop:
  """Whether the process has been asked to stop.

  Attributes:
    number: of the signal that asked; None while none has.
  """

  number: int | None = None

  def __call__(self) -> bool:
    """Whether it has."""
    return self.number is not None


@contextlib.contextmanager
def noted() -> Iterator[Stop]:
  """While the block runs, SIGTERM and Ctrl-C are noted, for the block to look at where it can stop.

  A second one ends the process at once. No exception is raised where the signal came: an exception
  in the midst of a callback of jax is lost, and one in the midst of a lock may leave it taken.
  """
  stop = Stop()

  def handle(number: int, _: Any) -> None:
    if stop.number is not None:
      if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # the cursor, which a live bar hides
      os._exit(128 + number)
    stop.number = number
    # Not by print, which may be interrupted in the midst of printing.
    os.write(sys.stderr.fileno(), b"\nStopping at the end of this call; once more, and at once.\n")

  before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
