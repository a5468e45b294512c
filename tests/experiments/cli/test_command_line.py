"""Tests of how the command line reports user errors, and of parsers."""

from __future__ import annotations

import pytest

from experiments.cli import command_line, parsers


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (
      ValueError("batch_size must be at least 1, got 0."),
      "--batch_size must be at least 1, got 0.",
    ),
    (TypeError("corpus must be a Corpus."), "--corpus must be a Corpus."),
    (ImportError("Task digits needs scikit-learn."), "Task digits needs scikit-learn."),
  ],
)
def test_errors_of_the_library_name_the_flag(error, message):
  with pytest.raises(ValueError) as raised, command_line.errors_name_flags():
    raise error
  assert str(raised.value) == message


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (ValueError("--steps must be\nan integer."), "error: --steps must be an integer.\n"),
    (OSError("disk full"), "error: FILE could not be written: disk full.\n"),
    (MemoryError("no room"), "error: the computation failed: no room.\n"),
  ],
)
def test_errors_of_the_user_end_the_program_with_one_line(error, line, capsys):
  one_line = command_line.errors_in_one_line("FILE could not be written")
  with pytest.raises(SystemExit) as ended, one_line:
    raise error
  assert ended.value.code == 2
  assert capsys.readouterr().err == line


@pytest.mark.parametrize("name", ["--corpus", "FOLDER"])
def test_an_invalid_path_is_reported_with_the_name_of_its_flag_or_argument(name):
  with pytest.raises(ValueError, match=f"^{name} must be a path, got 'a"):
    command_line.path(name, "a\0b")


@pytest.mark.parametrize(("text", "sizes"), [("", ()), ("none", ()), ("8", (8,)), ("8, 8", (8, 8))])
def test_sizes_may_be_equal_or_absent(text, sizes):
  assert parsers.sizes("hidden_sizes")(text) == sizes
