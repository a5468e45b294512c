"""SIGTERM and Ctrl-C as requests to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_MESSAGE = (
  b"\nFinishing the current batch of steps, then checkpointing. Press Ctrl-C again to quit "
  b"immediately.\n"
)


class Stop:
  """A request to stop.

  Attributes:
    number: number of the signal that asked for it; None if there is no request.
  """

  number: int | None = None

  def __call__(self) -> bool:
    """Returns whether the process has been asked to stop."""
    return self.number is not None


@contextlib.contextmanager
def caught() -> Iterator[Stop]:
  """Catches SIGTERM and Ctrl-C while the block runs; yields a `Stop` that the block must poll.

  A second signal ends the process at once. No exception is raised at the point of interruption: jax
  swallows an exception raised in one of its callbacks, and one raised around a lock could leave it
  locked.
  """
  stop = Stop()

  def handle(number: int, _: FrameType | None) -> None:
    if stop.number is not None:
      if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # show the cursor, which a live bar hides
      os._exit(128 + number)
    stop.number = number
    # `print` is not reentrant: the signal may have interrupted one.
    os.write(sys.stderr.fileno(), _MESSAGE)

  before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
