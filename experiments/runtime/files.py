"""Functions that write files atomically, so that a reader never sees a half-written one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Yields a temporary path to write to; it replaces `path` if the block raises no error."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except FileNotFoundError:  # another process removed an empty parent folder meanwhile
    path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(path.name + ".tmp")
  yield draft
  with draft.open("rb+") as file:
    os.fsync(file.fileno())
  draft.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
  """Writes bytes atomically."""
  with replacing(path) as draft:
    draft.write_bytes(data)


def write_text(path: Path, text: str) -> None:
  """Writes text atomically, as UTF-8."""
  write_bytes(path, text.encode())


def write_json(path: Path, data: Mapping[str, object]) -> None:
  """Writes a JSON object atomically."""
  write_text(path, json.dumps(data, indent=2) + "\n")


def write_netcdf(path: Path, data: xr.Dataset) -> None:
  """Writes a dataset atomically, as NetCDF 3."""
  with replacing(path) as draft:
    data.to_netcdf(draft, engine="scipy")


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    ValueError: if the file does not hold a JSON object.
  """
  try:
    data = json.loads(path.read_bytes())
  except (ValueError, RecursionError):
    data = None
  if not isinstance(data, dict):
    raise ValueError(f"{path} is damaged: it must hold a JSON object.")
  return data
