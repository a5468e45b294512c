"""Messages on standard error: warnings, and the reasons why a program exits early."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

USAGE_ERROR = 2
FAILED = 2
INTERRUPTED = 130


def fail(message: str) -> NoReturn:
  """Ends the program with one line on standard error and exit status 2."""
  print("error:", " ".join(message.split()), file=sys.stderr)
  sys.exit(USAGE_ERROR)


def warn(message: str) -> None:
  """Prints a warning on standard error."""
  print(f"warning: {message}", file=sys.stderr)


def interrupted(message: str = "", status: int = INTERRUPTED) -> NoReturn:
  """Ends the program at once after Ctrl-C or another signal, with a message on standard error.

  Skips the interpreter's own shutdown, which may crash while a device is still computing.
  """
  print(f"\nInterrupted. {message}".rstrip(), file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
