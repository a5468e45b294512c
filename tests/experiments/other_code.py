"""Helpers that make the records of a sweep look as if different code had made them."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.sweep.records import origins, run_files


def add_start(folder: Path, file: str) -> str:
  """Adds to sweep.json a start of the sweep with another version of `file`; returns its key."""
  path = folder / "sweep.json"
  about = json.loads(path.read_text())
  other = {**about, "code": {**about["code"], file: "0" * 64}}
  path.write_text(json.dumps({**about, "continued": [*about.get("continued", []), other]}))
  key = origins.key_of(other)
  assert key is not None
  return key


def set_status(run_folder: Path, **entries: str | None) -> None:
  """Changes entries of a run's status, and removes those given as None."""
  state = json.loads((run_folder / "status.json").read_text())
  del state["sha256"]
  removed = {name for name, value in entries.items() if value is None}
  kept = {name: value for name, value in {**state, **entries}.items() if name not in removed}
  run_files._write_status(run_folder, kept)
