"""A run's files as a whole: read in one folder of a sweep, and put into another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from experiments.runtime import files

RunFiles = Mapping[str, bytes]

_DRAFTS = "arriving.tmp"
RECORDS = ("config.json", "metrics.jsonl", "gradients.nc")


def read(folder: Path, run_id: str) -> dict[str, bytes]:
  """All files of a run, by name."""
  paths = (folder / "runs" / run_id).iterdir()
  return {p.name: p.read_bytes() for p in sorted(paths) if p.is_file() and p.suffix != ".tmp"}


def write(folder: Path, run_id: str, run: RunFiles) -> None:
  """Puts a run's files in the place of what the folder has of it: all of them, or none."""
  draft = folder / _DRAFTS / run_id
  shutil.rmtree(draft, ignore_errors=True)
  for name, data in run.items():
    files.write_bytes(draft / name, data)
  path = folder / "runs" / run_id
  path.parent.mkdir(exist_ok=True)
  if path.exists():
    shutil.rmtree(path)
  draft.replace(path)
  shutil.rmtree(folder / _DRAFTS)
