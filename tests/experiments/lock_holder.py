"""A helper that holds a lock in another process, since a process does not exclude itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CODE = """
import pathlib, sys
from experiments.runtime.locks import file_lock
with file_lock(pathlib.Path(sys.argv[1])):
  print(flush=True)
  sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(path: Path) -> Iterator[None]:
  """Lets another process hold an exclusive lock on the whole file while the block runs."""
  root, pipe = Path(__file__).parents[2], subprocess.PIPE
  command = sys.executable, "-c", _CODE, str(path)
  with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe) as other:
    assert other.stdout is not None and other.stdout.readline()
    yield
    other.kill()
