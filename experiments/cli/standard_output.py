"""Standard output: any encoding, width and reader, and errors in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

from experiments.runtime import exits

_OF_LOCALE_C = "surrogateescape"  # how Python handles encoding errors in locale C


def prepare() -> None:
  """Prepares standard output and standard error for any text, encoding and width."""
  for name in ("stdout", "stderr"):
    if getattr(sys, name) is None:  # closed by `>&-`
      setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", _OF_LOCALE_C):
    # Paths, cell names and measure names may contain characters that the encoding lacks.
    sys.stdout.reconfigure(errors="backslashreplace")
  if not re.fullmatch("[2-9][0-9]|[1-9][0-9]{2,3}", os.environ.get("COLUMNS", "")):
    # At width 0 rich prints nothing, and at width 1 absl raises.
    os.environ.pop("COLUMNS", None)


@contextlib.contextmanager
def errors_end_program() -> Iterator[None]:
  """Ends the program if the block's standard output cannot be written."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # The process that reads the output, such as `head`, has ended.
    exits.discard(sys.stdout)
    sys.exit(exits.INTERRUPTED)
  except SystemExit as ended:
    if isinstance(ended.__context__, BrokenPipeError):  # from rich, with status 1
      ended.code = exits.INTERRUPTED
    raise
  except OSError:
    check_written()
    raise


def check_written() -> None:
  """Ends the program with a one-line message if standard output cannot be written."""
  try:
    sys.stdout.flush()  # text whose writing has failed is still in the buffer, if there is one
    if getattr(sys.stdout, "write_through", False):
      sys.stdout.write("\n")
  except BrokenPipeError:
    raise
  except OSError as error:
    exits.discard(sys.stdout)
    exits.fail(f"standard output could not be written: {error}.")
