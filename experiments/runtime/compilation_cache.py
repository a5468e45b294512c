"""Compiled programs on disk: what one sweep has compiled, the next one loads."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import filelock
import jax

LARGEST_SIZE = 2 * 2**30  # bytes; beyond it, the programs go that were not used for longest


def use(name: str) -> None:
  """Keeps compiled programs in a folder from now on; to be called before the first compilation.

  A folder that cannot be used, or that other users may write to, is no reason to fail: a line on
  standard error says why nothing is kept.

  Args:
    name: of the folder; `auto` for `rnn_jax` in `$XDG_CACHE_HOME` or `~/.cache`, `none` for none.
  """
  folder = None
  if name != "none":
    if name == "auto":
      name = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rnn_jax")
    try:
      if not name:
        raise ValueError("--compilation_cache must name a folder, or be auto or none, got ''")
      folder = Path(name).expanduser()
      _prepare(folder)
    except (OSError, ValueError, RuntimeError) as error:
      print(f"warning: compiled programs are not kept: {error}", file=sys.stderr)
      folder = None
  jax.config.update("jax_compilation_cache_dir", folder and str(folder))
  jax.config.update("jax_compilation_cache_max_size", LARGEST_SIZE)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _prepare(folder: Path) -> None:
  """Makes the folder, or checks that it is the user's own, and clears what was half written."""
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  about = folder.stat()
  if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    # What is loaded from it is executed.
    raise ValueError(f"{folder} must belong to this user, and no other may write to it")
  with tempfile.TemporaryFile(dir=folder):
    pass  # an OSError tells that nothing can be written here
  with filelock.FileLock(folder / ".lockfile", timeout=10):  # the one that jax takes
    for program in folder.glob("*-cache"):
      # jax notes the time of its use after the program; a kill in between leaves half a program.
      if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
        program.unlink()
