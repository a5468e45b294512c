"""Helpers that start sweeps as real processes, and read their records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGFILES = ROOT / "experiments" / "flagfiles"
SMOKE = f"--flagfile={FLAGFILES / 'smoke.flags'}"
# Code that runs `python -m experiments.sweep` but draws no pictures, which would take longer than a
# short sweep.
WITHOUT_PICTURES = """
import runpy, sys, types
sys.modules["experiments.sweep.figures.gradients"] = types.SimpleNamespace(
  save_all=lambda *_: ["no picture"]
)
runpy.run_module("experiments.sweep", run_name="__main__", alter_sys=True)
"""


def start(*flags: object, first: str = "") -> subprocess.Popen[str]:
  """Starts a sweep that draws no pictures, after the code `first`; returns its process."""
  return _start("-c", first + WITHOUT_PICTURES, *flags)


def _start(*arguments: object) -> subprocess.Popen[str]:
  return subprocess.Popen(
    (sys.executable, *map(str, arguments)),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def call(*flags: object, module: str = "experiments.sweep") -> subprocess.CompletedProcess[str]:
  process = _start("-m", module, *flags)
  out, err = process.communicate(timeout=240)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def sweep(*flags: object) -> None:
  """Runs a sweep with its pictures, and asserts that it succeeds."""
  result = call(*flags)
  assert result.returncode == 0, result.stderr


def contents(folder: Path) -> dict[str, bytes]:
  """Returns, by name, the contents of the files that must not depend on how a sweep was trained."""
  names = ["gradients.nc", "summary.csv", "sweep.flags"]
  names += [str(p.relative_to(folder)) for p in folder.glob("runs/*/[cgm]*")]
  return {name: (folder / name).read_bytes() for name in sorted(names)}
