"""Checks that arrays and compiled programs fit into the memory of this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax

_GROUP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def check(entries: int, flags: str, what: str) -> None:
  """Raises if arrays with this many float32 entries cannot fit into this machine's memory.

  Args:
    entries: total number of entries.
    flags: names of the flags that determine `entries`, as the subject of the message.
    what: subject and verb of the message's second part, such as `a run needs`.
  Raises:
    ValueError: if the arrays do not fit.
  """
  needed, here = 4 * entries, available()
  if needed > here:
    raise ValueError(
      f"{flags} must fit into this machine's {_gib(here)}; {what} at least {_gib(needed)}."
    )


def check_program(program: jax.stages.Compiled, devices: int, advice: str) -> None:
  """Raises if a compiled program needs more memory than this machine has.

  Without this check, XLA:CPU would start the program, and the operating system would kill the
  process without a message.

  Args:
    program: the program. Its memory analysis gives the memory of one device.
    devices: number of this machine's CPU devices that run the program at the same time.
    advice: how to reduce the memory that the program needs, as a sentence of the message.
  Raises:
    ValueError: if the program does not fit.
  """
  found, here = program.memory_analysis(), available()
  if found is None:
    return
  kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
  needed = devices * (found.temp_size_in_bytes + kept)
  if needed > here:
    where = f"{devices} device{'s' * (devices > 1)}"
    raise ValueError(
      f"The compiled program needs {_gib(needed)} on {where}, but this machine has {_gib(here)}. "
      f"{advice}"
    )


def available(group: Path = _GROUP, groups: Path = _GROUPS) -> int:
  """Returns this machine's memory in bytes, or less if this process's control group limits it.

  Containers and SLURM limit memory by control groups. Limits of enclosing groups apply, too.

  Args:
    group: the file that lists this process's groups, one for each version of control groups.
    groups: the folder of all control groups.
  """
  found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
  with contextlib.suppress(OSError):  # macOS has no control groups
    for line in group.read_text().splitlines():
      _, kinds, path = line.split(":", 2)  # version 2 has one group, of no kind
      if kinds and "memory" not in kinds.split(","):
        continue
      own = groups / ("memory" if kinds else "") / path.lstrip("/")
      # In a container, the path may be the one outside of it; then only the parents exist.
      for folder in (own, *own.parents):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of versions 2 and 1
          with contextlib.suppress(OSError, ValueError):  # `max` means that there is no limit
            found.append(int((folder / name).read_text()))
  return min(found)


def _gib(size: int) -> str:
  return f"{size / 2**30:.1f} GiB"
