"""The layout of a sweep's runs on the devices: how many runs train at once, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

# The default of --runs_per_device on accelerators, where one run of the usual size would leave most
# of the device idle. On CPU the default is 1, because each device is one core, which one run keeps
# busy, and because XLA:CPU is slow at small batched matrix products.
RUNS_PER_ACCELERATOR = 16


class Layout(NamedTuple):
  """The layout of a group's runs on the devices.

  A group consists of the runs that share a compiled program. The devices form rows of
  `data_parallel` devices each. All devices of a row train the same runs, and each device processes
  its share of every batch.

  Attributes:
    devices: the devices in use, ordered by process, with equally many from each process.
    data_parallel: number of devices that share the batch of a run; must divide the batch size and
      the number of devices. With several processes it must equal the number of devices.
    runs_per_device: maximum number of runs that a device trains at once, vectorized.
  """

  devices: Sequence[jax.Device]
  data_parallel: int = 1
  runs_per_device: int = 1

  def leading_axes(self, num_runs: int) -> tuple[int, ...]:
    """Returns the leading axes of arrays that hold one entry for each run being trained.

    The axes are (rows,) if each device trains one run at a time, otherwise (rows, runs at once),
    where rows is the number of rows of devices.

    Args:
      num_runs: number of runs in the group.
    """
    together = self.runs_at_once(num_runs)
    return (self._rows,) if together == 1 else (self._rows, together)

  def runs_at_once(self, num_runs: int) -> int:
    """Returns how many runs each device trains at once if the group has `num_runs` runs."""
    return runs_together(num_runs, self._rows, self.runs_per_device)

  @property
  def _rows(self) -> int:
    return len(self.devices) // self.data_parallel


def runs_together(num_runs: int, rows: int, most: int) -> int:
  """Returns the number of runs that each device trains at once, at most `most`.

  In a round, each of the `rows` rows of devices trains this number of runs. The result is the
  smallest number with which `num_runs` runs take as few rounds as with `most`.
  """
  rounds = math.ceil(num_runs / (rows * most))
  return math.ceil(num_runs / (rows * rounds))
