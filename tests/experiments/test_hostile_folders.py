"""Tests that no command follows links, or replaces anything but regular files, in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments import plot
from experiments.ablation import __main__ as ablation
from experiments.benchmark import __main__ as benchmark
from experiments.language_model import __main__ as language_model
from experiments.report import __main__ as report
from experiments.reproduce import __main__ as reproduce
from experiments.sequence_problem import __main__ as sequence_problem
from experiments.states import __main__ as states


def identity(path: Path) -> tuple[int, ...]:
  """Returns what differs between a file and one that replaces it; the access time may change."""
  found = path.lstat()
  return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe", "folder"])
@pytest.mark.parametrize(
  ("command", "taken", "arguments"),
  [
    (ablation, "ablation.tex", ["{}", "--output_dir={}"]),
    (sequence_problem, "result.json", ["--output_dir={}"]),
    (benchmark, "benchmark.json", ["--output_dir={}"]),
    (benchmark, "benchmark.png", ["--output_dir={}"]),
    (report, "report.html", ["{}"]),
    (reproduce, "F1/table.csv", ["--figure=F1", "--output_dir={}"]),
    (reproduce, "report.md", ["--figure=F1", "--output_dir={}", "--report={}/report.md"]),
    (states, "page.html", ["--model={}", "--output={}/page.html"]),
  ],
)
def test_anything_but_a_regular_file_is_refused_before_computing(
  command, taken, arguments, kind, tmp_path, program_here, capfd
):
  folder, outside = tmp_path / "folder", tmp_path / "outside"
  path = folder / taken
  path.parent.mkdir(parents=True)
  (folder / "model.json").write_text("{}")
  if kind == "folder link":
    outside.mkdir()
  elif kind == "link":
    outside.write_text("kept")
  if kind == "folder":
    path.mkdir()
  elif kind == "pipe":
    os.mkfifo(path)
  else:
    path.symlink_to(outside)
  before = identity(path)
  assert program_here(command, *(text.format(folder) for text in arguments)) == 2
  (error,) = capfd.readouterr().err.splitlines()
  assert error.startswith("error: ") and str(path) in error
  assert identity(path) == before
  assert kind != "link" or outside.read_text() == "kept"
  assert kind != "folder link" or not any(outside.iterdir())


@pytest.mark.parametrize(
  ("command", "name", "arguments"),
  [
    (ablation, "ablation", ["{}"]),
    (plot, "figures", ["{}"]),
    (reproduce, "F1", ["--figure=F1", "--output_dir={}"]),
    (language_model, "checkpoints", ["--output_dir={}"]),
    (language_model, "metrics.jsonl", ["--output_dir={}"]),
  ],
)
def test_links_to_folders_outside_are_not_followed(
  command, name, arguments, tmp_path, program_here, capfd
):
  folder, outside = tmp_path / "folder", tmp_path / "outside"
  folder.mkdir()
  outside.mkdir()
  (outside / "table.csv").write_text("kept")
  (folder / name).symlink_to(outside)
  assert program_here(command, *(text.format(folder) for text in arguments)) == 2
  (error,) = capfd.readouterr().err.splitlines()
  assert f"must not contain symbolic links, got {folder / name}" in error
  assert (outside / "table.csv").read_text() == "kept"
