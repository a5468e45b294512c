"""Runs a part of the suite with LLVM's optimizations enabled, as they are for users.

`conftest.py` disables optimizations, because most compiled programs of the suite run only once. But
optimizations change the compiled code: fusion and vectorization reorder sums, and buffers are
reused. So closed forms, golden cells, the hand-written reverse pass, and the byte-for-byte equality
of a sweep's records are also tested in a process with optimizations. To run the whole suite with
optimizations, use `JAX_DISABLE_MOST_OPTIMIZATIONS=0 python -m pytest`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (
  "tests/test_closed_forms.py",
  "tests/cells/test_golden.py",
  "tests/cells/test_fused_gates.py",
  "tests/time_loop/test_adjoint.py",
  "tests/optimized_records.py",
)
TESTS = (
  "closed_forms and not half_life or golden and equation or fused_gates or number_of_devices"
  " or plain_loop and float64 and resets and lengths and ([elman-- or [gru-- or [lstm--)"
)


def test_selected_tests_pass_with_optimizations(tmp_path):
  # The inner pytest must inherit neither the XLA flags of `conftest.py`, which are chosen for fast
  # compilation, nor the variables by which pytest-xdist marks a worker.
  kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.startswith("PYTEST_")}
  options = ("-v", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'optimized'}")
  result = subprocess.run(
    (sys.executable, "-m", "pytest", *options, *FILES, "-k", TESTS),
    cwd=ROOT,
    env={**kept, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
  # TESTS selects tests by name. If a test is renamed, TESTS may no longer select it, so check that
  # some test of each group has run.
  for part in ("closed_forms", "golden", "fused_gates", "plain_loop", "number_of_devices"):
    assert re.search(rf"::.*{part}.* PASSED|{part}\.py::.* PASSED", result.stdout), part
