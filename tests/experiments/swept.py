"""Sweeps started as real processes, and their records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGFILES = ROOT / "experiments" / "flagfiles"
SMOKE = f"--flagfile={FLAGFILES / 'smoke.flags'}"


def start(*flags: object, module: str = "experiments.sweep") -> subprocess.Popen[str]:
  return subprocess.Popen(
    (sys.executable, "-m", module, *map(str, flags)),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def call(*flags: object, module: str = "experiments.sweep") -> subprocess.CompletedProcess[str]:
  process = start(*flags, module=module)
  out, err = process.communicate(timeout=240)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def sweep(*flags: object) -> subprocess.CompletedProcess[str]:
  result = call(*flags)
  assert result.returncode == 0, result.stderr
  return result


def contents(folder: Path) -> dict[str, bytes]:
  """Returns the files that must not depend on how the sweep was trained."""
  names = ["gradients.nc", "summary.csv", "sweep.flags"]
  names += [str(p.relative_to(folder)) for p in folder.glob("runs/*/[cgm]*")]
  return {name: (folder / name).read_bytes() for name in sorted(names)}
