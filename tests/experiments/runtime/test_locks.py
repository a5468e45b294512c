"""A test of the error on a platform without file locks; `test_shards.py` tests the locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_windows_gets_one_line_that_names_the_platforms():
  # Importing fcntl fails, as on Windows.
  code = "import filelock, sys; sys.modules['fcntl'] = None; import experiments.sweep.__main__"
  result = subprocess.run(
    (sys.executable, "-c", code), cwd=ROOT, check=False, capture_output=True, text=True
  )
  assert result.returncode == 2
  assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
  assert "Linux or macOS" in result.stderr
