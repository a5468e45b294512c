"""A check that arrays fit into the memory of this machine."""

from __future__ import annotations

import os


def check(entries: int, flags: str, what: str) -> None:
  """Refuses arrays that cannot fit into the memory of this machine.

  Args:
    entries: number of float32 entries.
    flags: the flags that decide how many there are, for the message.
    what: subject and verb, such as `a run needs`.
  Raises:
    ValueError: they do not fit.
  """
  needed = 4 * entries
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if needed > memory:
    raise ValueError(
      f"{flags} must fit into this machine's {memory / 2**30:.0f} GiB; {what} at least "
      f"{needed / 2**30:.0f} GiB."
    )
