"""Tests that the linter, the formatter and the type checker report nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
  "command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=" ".join
)
def test_checker_reports_nothing(command):
  result = subprocess.run(
    (sys.executable, "-m", *command), cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stdout + result.stderr


def test_names_of_test_files_are_unique():
  """The folders of tests are no packages, so pytest imports each file by its name alone."""
  names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
  assert sorted(names) == sorted(set(names))
