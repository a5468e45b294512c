"""A signal handler that turns SIGTERM and Ctrl-C into requests to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

_MESSAGE = (
  b"\nFinishing the current batch of steps, then checkpointing. Press Ctrl-C again to quit "
  b"immediately.\n"
)


class Stop:
  """A record of whether a signal has asked this process to stop.

  Attributes:
    number: the number of that signal; None if no signal has arrived.
  """

  number: int | None = None

  def __call__(self) -> bool:
    """Returns whether the process has been asked to stop."""
    return self.number is not None


@contextlib.contextmanager
def caught(*, quits: bool = True) -> Iterator[Stop]:
  """Catches SIGTERM and Ctrl-C while the block runs; yields a `Stop` that the block must poll.

  A signal that the process ignores stays ignored. The first signal raises no exception, because jax
  swallows exceptions raised in its callbacks, and one raised while a lock is held might never
  release it. In a thread other than the main one, Python can catch no signals.

  Args:
    quits: whether a second signal ends the process at once; otherwise, the handler from before the
      block receives it.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return

  def handle(number: int, _: FrameType | None) -> None:
    if stop.number is not None:
      if not quits:
        signal.signal(number, before[signal.Signals(number)])
        signal.raise_signal(number)
        return
      if sys.stdout.isatty():
        _write(sys.stdout, b"\x1b[?25h")  # shows the cursor, which a live bar hides
      os._exit(128 + number)
    stop.number = number
    # The signal may have interrupted a `print`, which is not reentrant.
    _write(sys.stderr, _MESSAGE)

  # A shell makes its background jobs ignore Ctrl-C, because Ctrl-C is for the foreground job.
  numbers = [
    n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN
  ]
  before = {n: signal.signal(n, handle) for n in numbers}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _write(stream: TextIO, data: bytes) -> None:
  # A closed terminal must not prevent the program from stopping.
  with contextlib.suppress(OSError):
    os.write(stream.fileno(), data)
