"""A program called in this process, as its user would see it end."""

import contextlib
import io

import pytest
from absl.testing import flagsaver

from experiments.cli import command_line


def called(main, *arguments):
  """(exit status, standard error); both streams encode as a terminal's do."""
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
