"""A helper that runs a program in this process and returns how it ends."""

import contextlib
import io

import pytest
from absl.testing import flagsaver

from experiments.cli import command_line


def called(main, *arguments):
  """Runs a program's `main` on these arguments; returns (exit status, standard error).

  Standard output and standard error encode text as UTF-8, as in a real process.
  """
  out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
  err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
  with (
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    flagsaver.flagsaver(),
    pytest.raises(SystemExit) as ended,
  ):
    command_line.run(main, ["program", *map(str, arguments)])
  return ended.value.code or 0, err.buffer.getvalue().decode()
