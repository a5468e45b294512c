"""A check that arrays fit into the memory of this machine."""

from __future__ import annotations

import os


def check(entries: int, flags: str, what: str) -> None:
  """Raises if arrays with this many float32 entries cannot fit into this machine's memory.

  Args:
    entries: total number of entries.
    flags: names of the flags that determine `entries`, as the subject of the message.
    what: subject and verb of the message's second part, such as `a run needs`.
  Raises:
    ValueError: if the arrays do not fit.
  """
  needed = 4 * entries
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if needed > memory:
    raise ValueError(
      f"{flags} must fit into this machine's {memory / 2**30:.0f} GiB; {what} at least "
      f"{needed / 2**30:.0f} GiB."
    )
