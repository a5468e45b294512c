"""Tests of how the command line reports user errors, and of parsers."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from rich.console import Console

import experiments
from experiments.cli import command_line, flagfiles, parsers, paths


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
    paths.path(name, "a\0b")


@pytest.mark.parametrize(("text", "sizes"), [("", ()), ("none", ()), ("8", (8,)), ("8, 8", (8, 8))])
def test_sizes_may_be_equal_or_absent(text, sizes):
  assert parsers.sizes("hidden_sizes")(text) == sizes


@pytest.fixture
def parsed(monkeypatch):
  """Returns a function: command-line arguments -> (steps, dry, overwrite, arguments)."""

  def parse(*arguments):
    values = flags.FlagValues()
    monkeypatch.setattr(command_line.flags, "FLAGS", values)
    flags.DEFINE_integer("steps", 1, "Steps.", flag_values=values)
    flags.DEFINE_boolean("dry", False, "Dry.", flag_values=values)
    flags.DEFINE_boolean("overwrite", True, "Overwrite.", flag_values=values)
    rest = values(["program", *flagfiles.expand(arguments)])[1:]
    return values.steps, values.dry, values.overwrite, rest

  return parse


@pytest.mark.parametrize(
  "text",
  [
    "--dry\n--nooverwrite\n--steps=7",
    "\ufeff# BOM\r\n --steps=7\r\n\t-dry\n  // no\n-nooverwrite\n",
  ],
)
def test_a_flagfile_is_read_once_so_it_can_be_a_pipe(text, parsed):
  reader, writer = os.pipe()
  os.write(writer, text.encode())
  os.close(writer)
  try:
    assert parsed("a", f"--flagfile=/dev/fd/{reader}", "--", "--flagfile=b") == (
      7,
      True,
      False,
      ["a", "--flagfile=b"],
    )
  finally:
    os.close(reader)


def test_an_indented_flagfile_is_included_where_its_line_stands(parsed, tmp_path):
  (tmp_path / "inner").write_text("--steps=3\n--dry\n")
  outer = tmp_path / "outer"
  outer.write_text(f"--steps=2\n  --flagfile={tmp_path / 'inner'}\n--nodry\n")
  assert parsed("--flagfile", str(outer)) == (3, False, True, [])
  assert parsed(f"-flagfile={outer}", "--steps=4")[0] == 4


@pytest.mark.parametrize("line", ["--steps", "--flagfile", "--", "--nosteps", "--typo", "steps=4"])
def test_a_line_that_is_no_flag_is_named_with_its_number(line, parsed, tmp_path):
  (tmp_path / "x.flags").write_text(f"# first\n{line}\n")
  with pytest.raises(ValueError, match=f"got '{line}' in line 2 of "):
    parsed(f"--flagfile={tmp_path / 'x.flags'}")


def test_flagfiles_without_end_are_refused(parsed, tmp_path):
  for i in range(50):
    (tmp_path / str(i)).write_text(f"--flagfile={tmp_path / str(i + 1)}\n" * 2)
  (tmp_path / "50").write_text("")
  with pytest.raises(ValueError, match="--flagfile must include at most 1000 files"):
    parsed(f"--flagfile={tmp_path / '0'}")
  with pytest.raises(ValueError, match="--flagfile must have at most 1048576 characters"):
    parsed("--flagfile=/dev/zero")


@pytest.mark.parametrize("given", ["mine", "mine.flags"])
def test_flagfiles_are_found_by_name_from_anywhere(given, parsed, tmp_path, monkeypatch):
  folder, elsewhere = tmp_path / "flagfiles", tmp_path / "elsewhere"
  for path in (folder, elsewhere, elsewhere / "mine"):
    path.mkdir()
  (folder / "mine.flags").write_text("--steps=5\n")
  monkeypatch.setattr(flagfiles, "FOLDER", folder)
  monkeypatch.chdir(elsewhere)
  assert parsed(f"--flagfile={given}")[0] == 5
  (elsewhere / "mine.flags").write_text("--steps=6\n")  # a path that exists takes precedence
  assert parsed(f"--flagfile={given}")[0] == (6 if given == "mine.flags" else 5)


@pytest.mark.parametrize("given", ["gradent_decay", "x" * 300, "."])
def test_an_unknown_flagfile_lists_those_that_there_are(given):
  with pytest.raises(ValueError) as error:
    flagfiles.find("--flagfile", given)
  message = str(error.value)
  assert message.startswith("--flagfile must be a path of a file, or one of adding, cells_decay, ")
  assert "gradient_decay" in message and message.endswith(f", got '{given}'.")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_text_is_printed_in_any_encoding_and_width(errors, monkeypatch):
  def main(_: list[str]) -> None:
    print("Päth")
    Console(force_terminal=True, color_system=None).print("table")

  monkeypatch.setenv("COLUMNS", "0")
  out = io.TextIOWrapper(io.BytesIO(), "ascii", errors)
  with contextlib.redirect_stdout(out), flagsaver.flagsaver(), pytest.raises(SystemExit):
    command_line.run(main, ["program"])
  assert out.buffer.getvalue() == b"P\\xe4th\ntable\n"


def test_ctrl_c_ends_a_program_at_any_time(monkeypatch):
  ended = []
  monkeypatch.setattr(command_line.exits, "interrupted", lambda: ended.append("interrupted"))
  monkeypatch.setattr(sys, "argv", ["-m"])
  before = signal.getsignal(signal.SIGINT)
  try:
    importlib.reload(experiments)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # while modules are imported

    class Callback:
      def __del__(self):
        signal.raise_signal(signal.SIGINT)

    def main(_: list[str]) -> None:
      Callback()  # Python drops what the callback raises

    with flagsaver.flagsaver(), pytest.raises(SystemExit):
      command_line.run(main, ["program"])
  finally:
    signal.signal(signal.SIGINT, before)
  assert ended == ["interrupted"]


def test_the_status_is_130_if_the_reader_of_a_console_has_ended():
  reader, writer = os.pipe()
  os.close(reader)
  with (
    open(writer, "w") as out,
    contextlib.redirect_stdout(out),
    flagsaver.flagsaver(),
    pytest.raises(SystemExit) as ended,
  ):
    command_line.run(lambda _: Console().print("a table"), ["program"])
  assert ended.value.code == 130


def test_a_folder_that_is_not_utf8_is_refused_where_its_path_is_recorded(monkeypatch):
  monkeypatch.setattr(os, "getcwd", lambda: "/a\udcff")
  with pytest.raises(ValueError, match=r"^--corpus must be a path, got '/a\\udcff/a.txt'"):
    paths.recorded_path("--corpus", "a.txt")


@pytest.mark.parametrize("name", ["--corpus", "--sweep"])
def test_relative_paths_in_a_deleted_folder_are_named(name, monkeypatch):
  monkeypatch.setattr(os, "getcwd", lambda: os.stat("/nowhere"))
  with pytest.raises(ValueError, match=f"^{name} must be an absolute path if .* got 'a.txt'"):
    paths.absolute_path(name, "a.txt")
  assert paths.absolute_path(name, "/a.txt") == Path("/a.txt")


PROGRAM = """
import jax
from experiments.cli import command_line
from experiments.runtime import backend

def main(arguments):
  with command_line.errors_in_one_line("FILE could not be written"):
    print("devices" in arguments and jax.devices())

backend.configure()
assert not jax.config.jax_debug_nans
import matplotlib
assert matplotlib.get_backend() == "agg"
command_line.run(main)
"""


@pytest.mark.parametrize(
  ("command", "environment", "status", "error"),
  [
    ("{} >&-", {"MPLBACKEND": "unknown", "JAX_DEBUG_NANS": "1"}, 0, ""),
    ("{} >/dev/full", {}, 2, "error: standard output could not be written: "),
    (
      "{} >/dev/full",
      {"PYTHONUNBUFFERED": "1"},
      2,
      "error: standard output could not be written: ",
    ),
    ("{} --help >/dev/full", {}, 2, "error: standard output could not be written: "),
    ("{} --help | true; exit ${{PIPESTATUS[0]}}", {}, 130, ""),
    (
      "{} devices",
      {"JAX_PLATFORMS": "nowhere"},
      2,
      "error: JAX_PLATFORMS must name a platform available ",
    ),
  ],
)
def test_odd_environments_end_with_a_line_or_do_not_matter(
  command, environment, status, error, tmp_path
):
  (tmp_path / "program.py").write_text(PROGRAM)
  shell = command.format(f"{sys.executable} {tmp_path / 'program.py'}")
  path = os.pathsep.join([os.getcwd(), *sys.path])
  ended = subprocess.run(
    ["bash", "-c", shell],
    env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": path, **environment},
    stderr=subprocess.PIPE,
    text=True,
  )
  assert ended.returncode == status, ended.stderr
  assert ended.stderr.startswith(error) and ended.stderr.count("\n") == (error != "")
