"""Tests of atomic writing: only regular files are replaced, and links are not followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.runtime import files, locks


@pytest.fixture(params=["", ".tmp"])
def taken(request, tmp_path) -> tuple[Path, Path]:
  """(A path to write to, the same path or that of its draft, at which a test puts something)."""
  path = tmp_path / "a.json"
  return path, path.with_name(path.name + request.param)


@pytest.mark.parametrize("target", ["outside", "/dev/null", "missing"])
def test_links_are_neither_followed_nor_replaced(taken, tmp_path, target):
  path, link = taken
  (tmp_path / "outside").write_text("kept")
  link.symlink_to(tmp_path / target)
  with pytest.raises(ValueError, match=f"{link} must be a regular file, got a symbolic link"):
    files.write_text(path, "new")
  assert link.is_symlink() and (tmp_path / "outside").read_text() == "kept"
  assert not (tmp_path / "missing").exists()


def test_pipes_and_devices_are_not_replaced(taken):
  path, pipe = taken
  os.mkfifo(pipe)
  with pytest.raises(ValueError, match="must be a regular file, got a pipe"):
    files.write_text(path, "new")
  assert pipe.is_fifo()
  with pytest.raises(ValueError, match="/dev/null must be a regular file, got a device"):
    files.write_text(Path("/dev/null"), "new")


def test_json_is_read_only_from_regular_files_of_limited_size(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "zero").symlink_to("/dev/zero")
  with (tmp_path / "large").open("wb") as file:
    file.truncate(2**40)
  for name, reason in (("pipe", "a pipe"), ("zero", "a device"), ("large", "1099511627776")):
    with pytest.raises(ValueError, match=f"{name} must .* got {reason}"):
      files.read_json(tmp_path / name)


def test_files_above_the_size_limit_are_not_read(tmp_path):
  with (tmp_path / "large").open("wb") as file:
    file.truncate(50 * 2**30)
  with pytest.raises(ValueError, match=f"large must have at most {2**32} bytes, got {50 * 2**30}"):
    files.read_bytes(tmp_path / "large")


def test_a_lock_creates_no_file_behind_a_link(tmp_path):
  (tmp_path / ".lock").symlink_to("outside")
  with pytest.raises(OSError, match="symbolic links"), locks.folder_lock(tmp_path):
    pass
  assert not (tmp_path / "outside").exists()


def test_nothing_is_removed_unless_permissions_allow_everything(tmp_path, monkeypatch):
  (tmp_path / "runs/a").mkdir(parents=True)
  (tmp_path / "file").touch()
  everything = tmp_path / "file", tmp_path / "runs", tmp_path / "missing"
  with monkeypatch.context() as patch:  # root may do everything
    patch.setattr(files.os, "access", lambda path, mode: path != tmp_path / "runs/a")
    with pytest.raises(PermissionError, match="Permission denied"):
      files.remove(*everything)
  assert (tmp_path / "file").exists() and (tmp_path / "runs/a").exists()
  files.remove(*everything)
  assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_deep_folder_is_found(tmp_path):
  # Deeper than Python's recursion limit, and than a process's limit of open files.
  folders = [tmp_path]
  for _ in range(1500):
    folders.append(folders[-1] / "d")
    folders[-1].mkdir()
  link = folders[-1] / "link"
  link.symlink_to(tmp_path)
  try:
    with pytest.raises(ValueError, match="/d/link"):
      files.check_no_links(tmp_path)
  finally:
    link.unlink()  # pytest's removal of tmp_path is recursive
    for folder in reversed(folders[1:]):
      folder.rmdir()


def test_only_durable_writes_wait_for_the_disk(tmp_path, monkeypatch):
  waits = []
  monkeypatch.setattr(os, "fsync", waits.append)
  files.write_json(tmp_path / "a.json", {}, durable=False)
  assert files.read_json(tmp_path / "a.json") == {} and not waits
  files.write_json(tmp_path / "a.json", {"b": 1})
  assert files.read_json(tmp_path / "a.json") == {"b": 1} and len(waits) == 1
