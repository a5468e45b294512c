"""Tests of `--help`: pages equal the flags, and are printed before jax is imported."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from experiments.cli import help_pages, write_help
from experiments.sweep.config.flags import TABLE

ROOT = Path(__file__).parents[3]
PAGES = help_pages.read()
ALIASES = {"peers"}  # of the benchmark
PAGE: help_pages.Page = {
  "about": "Does one thing,\nand no other.\n\n  python -m experiments.one\n\nSee:\n  a\n  b",
  "groups": {
    "Axes, each a list": [
      {"flag": "--cell", "default": "elman", "help": "Name of a well-known cell."},
      {"flag": "--[no]dry", "default": "false", "help": "Do nothing."},
    ],
    "Output": [{"flag": "--folder", "default": "", "help": "Folder."}],
  },
}


def test_the_pages_are_those_of_the_flags():
  assert write_help.generate() == PAGES, "run: python -m experiments.cli.write_help"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_every_flag_of_its_command_and_no_other(name, flags_of):
  package = importlib.import_module(f"experiments.{name}")
  program = (
    package if hasattr(package, "main") else importlib.import_module(f"{package.__name__}.__main__")
  )
  rows = [row for rows in PAGES[name]["groups"].values() for row in rows]
  shown = [re.sub(r"^--(\[no\])?|\[=.*", "", row["flag"]) for row in rows]
  with flags_of(program) as defined:
    assert sorted(shown) == sorted(set(defined) - ALIASES)
    for row, flag in zip(rows, shown, strict=True):
      assert row["help"].endswith(".")
      value = flags.FLAGS[flag].value
      is_boolean = isinstance(value[0] if isinstance(value, tuple) and value else value, bool)
      assert row["flag"].startswith("--[no]") == is_boolean


def test_the_flags_of_a_sweep_are_in_groups():
  assert list(PAGES["sweep"]["groups"]) == [
    "Axes of the sweep, each a comma list of values or a range such as 0..9",
    "Design, text and size",
    "Measures and records",
    "Output",
    "Devices",
    "Engines and shards",
    "Several hosts",
    "Plugins",
    "Other commands",
  ]
  axes = {flag.name for flag in TABLE if flag.group.startswith("Axes")}
  assert axes == {flag.name for flag in TABLE if flag.kind == "axis"} | {"cell_option"}


def test_a_page_is_wrapped_to_the_width_and_has_defaults():
  assert help_pages.text(PAGE, 60).split("\n\nEvery command:\n")[0] == (
    "Does one thing, and no other.\n"
    "\n"
    "  python -m experiments.one\n"
    "\n"
    "See:\n"
    "  a\n"
    "  b\n"
    "\n"
    "Axes, each a list:\n"
    "  --cell      Name of a well-known cell. [default: elman]\n"
    "  --[no]dry   Do nothing. [default: false]\n"
    "\n"
    "Output:\n"
    "  --folder    Folder. [default: '']"
  )
  assert "Axes, each a list:\n  --cell\n      Name of a well-known cell.\n" in help_pages.text(
    PAGE, 35
  )


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("name", PAGES)
def test_no_line_is_wider_than_the_terminal_unless_a_word_is(name, width):
  for line in help_pages.text(PAGES[name], width).splitlines():
    unbroken = line.startswith("  ") and ("python -m" in line or "http" in line)
    assert len(line) <= min(width, 100) or unbroken or len(line.split()) <= 2


def started(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    ["bash", "-c", command.format(python=sys.executable)],
    cwd=ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("flag", ["-h", "--help", "--helpshort"])
def test_help_is_printed_before_jax_is_imported(flag):
  ended = started("{python} -X importtime -m experiments.sweep --steps=x " + flag, COLUMNS="70")
  assert ended.returncode == 0
  assert ended.stdout == help_pages.text(PAGES["sweep"], 70)
  imported = {line.split("|")[-1].strip().split(".")[0] for line in ended.stderr.splitlines()}
  assert "experiments" in imported
  assert not imported & {"jax", "jaxlib", "flax", "optax", "xarray", "matplotlib", "numpy", "absl"}
  assert all(line.startswith("import time:") for line in ended.stderr.splitlines())


def test_help_needs_no_reader_and_no_terminal():
  ended = started("{python} -m experiments.sweep --help | head -3; exit ${{PIPESTATUS[0]}}")
  assert (ended.returncode, ended.stderr) in ((0, ""), (130, ""))
  assert ended.stdout == "\n".join(help_pages.text(PAGES["sweep"], 80).split("\n")[:3]) + "\n"
  ended = started("{python} -m experiments.merge --help >/dev/full")
  assert ended.returncode == 2
  assert re.fullmatch("error: standard output could not be written: .*\n", ended.stderr)


def test_arguments_after_two_dashes_do_not_ask_for_help():
  assert help_pages.is_asked(["--steps=3", "-h"])
  assert not help_pages.is_asked(["--steps=3", "--", "--help"])


def test_other_modules_are_not_shown_as_commands(capsys):
  help_pages.show("experiments.cli")
  assert capsys.readouterr().out == ""
