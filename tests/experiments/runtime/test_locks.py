"""Locks on a platform without them; real ones are tested in test_shards.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_windows_gets_one_line_that_names_the_platforms():
  # Windows has no fcntl.
  code = "import filelock, sys; sys.modules['fcntl'] = None; import experiments.sweep.__main__"
  result = subprocess.run(
    (sys.executable, "-c", code), cwd=ROOT, check=False, capture_output=True, text=True
  )
  assert result.returncode == 2
  assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
  assert "Linux or macOS" in result.stderr
