"""Messages on standard error: warnings, and the reasons why a program exits early."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

USAGE_ERROR = 2
FAILED = 2
INTERRUPTED = 130


def printable(text: str) -> str:
  """Returns text in one line, with control characters escaped, as text from a file may hold any.

  A terminal would obey escape sequences, which can hide text or change its settings.
  """
  line = " ".join(text.split())
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def fail(message: str) -> NoReturn:
  """Ends the program with one line on standard error and exit status 2."""
  print("error:", printable(message), file=sys.stderr)
  sys.exit(USAGE_ERROR)


def warn(message: str) -> None:
  """Prints a warning, in one line on standard error."""
  print("warning:", printable(message), file=sys.stderr)


def interrupted(message: str = "", status: int = INTERRUPTED) -> NoReturn:
  """Ends the program at once after Ctrl-C or another signal, with a message on standard error.

  Skips the interpreter's own shutdown, which may crash while a device is still computing.
  """
  print(f"\nInterrupted. {printable(message)}".rstrip(), file=sys.stderr)
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
