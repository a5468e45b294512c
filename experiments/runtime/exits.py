"""Messages on standard error: warnings, and the reasons why a program exits early."""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from typing import NoReturn, TextIO

USAGE_ERROR = 2
FAILED = 2
INTERRUPTED = 130


def printable(text: str) -> str:
  """Returns text in one line, with control characters escaped, as text from a file may hold any.

  A terminal would obey escape sequences, which can hide text or change its settings.
  """
  line = " ".join(text.split())
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def without_controls(text: str) -> str:
  """Returns text with its control characters escaped, except line breaks and tabs."""
  return "".join(
    ascii(c)[1:-1] if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text
  )


def fail(message: str) -> NoReturn:
  """Ends the program with one line on standard error and exit status 2."""
  say(f"error: {printable(message)}")
  sys.exit(USAGE_ERROR)


def warn(message: str) -> None:
  """Prints a warning, in one line on standard error."""
  say(f"warning: {printable(message)}")


def say(text: str) -> None:
  """Prints text on standard error, or nothing if standard error cannot be written."""
  try:
    print(text, file=sys.stderr, flush=True)
  except OSError:
    discard(sys.stderr)


def discard(stream: TextIO) -> None:
  """Redirects an unwritable stream to /dev/null, because Python flushes it again at exit."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def interrupted(message: str = "", status: int = INTERRUPTED) -> NoReturn:
  """Ends the program at once after Ctrl-C or another signal, with a message on standard error.

  Skips the interpreter's own shutdown, which may crash while a device is still computing.
  """
  say(f"\nInterrupted. {printable(message)}".rstrip())
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  os._exit(status)
