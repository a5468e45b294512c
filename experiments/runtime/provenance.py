"""The provenance of results: package versions, git commit, cores and processor."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

# The packages whose versions affect what a training step computes.
PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def versions(packages: Iterable[str]) -> dict[str, str]:
  """Returns the version of Python, and of each package in `packages` that is installed."""
  found = {"python": platform.python_version()}
  for name in packages:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def git() -> dict[str, object] | None:
  """Returns this code's git commit and whether it has local changes; None outside a repository."""

  def run(*args: str) -> str:
    return subprocess.run(
      ("git", *args), cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
  except (OSError, subprocess.CalledProcessError):
    return None


def cores() -> list[int]:
  """Returns the indices of the CPU cores that this process may use."""
  affinity = getattr(os, "sched_getaffinity", None)  # macOS lacks this function
  return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def processor() -> str:
  """Returns the processor's name, or `unknown` if `/proc/cpuinfo` does not name it."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
