"""The on-disk cache of compiled programs, from which later commands load them."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments.runtime import exits

MAX_SIZE = 2 * 2**30  # bytes; above this, the least recently used programs are deleted


def use(name: str) -> None:
  """Turns on jax's persistent compilation cache. Must be called before the first compilation.

  If the folder cannot be used, or other users may write to it, the cache stays off and a warning
  on standard error says why.

  Args:
    name: path of the cache's folder; `auto` for the folder `rnn_jax` in `$XDG_CACHE_HOME` or
      `~/.cache`; `none` for no cache.
  """
  folder = None
  if name == "auto":
    name = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rnn_jax")
  if name != "none":
    try:
      if not name:
        raise ValueError("--compilation_cache must name a folder, or be auto or none, got ''")
      folder = Path(name).expanduser()
      if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise ValueError(f"the path {folder} must be valid UTF-8, because jax requires it")
      _prepare(folder)
    except (OSError, ValueError, RuntimeError) as error:
      exits.warn(f"compiled programs are not kept: {error}")
      folder = None
  # If JAX_COMPILATION_CACHE_DIR is set, jax may have used that folder already. Without a reset it
  # would continue to use it.
  reset_cache()
  jax.config.update("jax_compilation_cache_dir", folder and str(folder))
  jax.config.update("jax_compilation_cache_max_size", MAX_SIZE)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def used(name: str) -> Iterator[None]:
  """Turns on the cache as `use` does while the block runs, then restores jax's settings."""
  names = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {setting: getattr(jax.config, setting) for setting in names}
  use(name)
  try:
    yield
  finally:
    reset_cache()
    for setting, value in before.items():
      jax.config.update(setting, value)


def _prepare(folder: Path) -> None:
  """Creates the folder if needed, checks it, and deletes half-written programs from it.

  Raises:
    OSError: if the folder cannot be created, read or written.
    ValueError: if the folder belongs to another user, or other users may write to it.
  """
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  about = folder.stat()
  if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    # Programs loaded from this folder are executed, so only this user may write them.
    raise ValueError(f"{folder} must belong to this user, and no other user may write to it")
  with tempfile.TemporaryFile(dir=folder):
    pass  # raises OSError if the folder is not writable
  with filelock.FileLock(folder / ".lockfile", timeout=10):  # jax takes the same lock
    for program in folder.glob("*-cache"):
      # jax writes a program first, and its time of last use (NAME-atime) second. If the second file
      # is missing, jax may have been killed while it wrote the program.
      if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
        program.unlink()
