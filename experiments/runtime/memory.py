"""Checks that arrays and compiled programs fit into the memory of this machine."""

from __future__ import annotations

import os

import jax


def check(entries: int, flags: str, what: str) -> None:
  """Raises if arrays with this many float32 entries cannot fit into this machine's memory.

  Args:
    entries: total number of entries.
    flags: names of the flags that determine `entries`, as the subject of the message.
    what: subject and verb of the message's second part, such as `a run needs`.
  Raises:
    ValueError: if the arrays do not fit.
  """
  _check(4 * entries, f"{flags} must fit into", f"{what} at least")


def check_program(program: jax.stages.Compiled, devices: int) -> None:
  """Raises if a compiled program needs more memory than this machine has.

  Without this check, XLA:CPU would start the program, and the operating system would kill the
  process without a message.

  Args:
    program: the program. Its memory analysis gives the memory of one device.
    devices: number of this machine's CPU devices that run the program at the same time.
  Raises:
    ValueError: if the program does not fit.
  """
  found = program.memory_analysis()
  if found is not None:
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    needed = devices * (found.temp_size_in_bytes + kept)
    on_devices = f"on {devices} device{'s' * (devices > 1)}"
    _check(needed, "the program must fit into", f"{on_devices} it needs")


def _check(needed: int, must: str, needs: str) -> None:
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if needed > memory:
    raise ValueError(
      f"{must} this machine's {memory / 2**30:.0f} GiB; {needs} {needed / 2**30:.0f} GiB."
    )
