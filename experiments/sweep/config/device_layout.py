"""The layout of runs on the devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

# Runs of the usual size leave most of an accelerator idle. One run keeps the CPU's cores busy, and
# XLA:CPU is slow at small batched products.
RUNS_PER_ACCELERATOR = 16


class Layout(NamedTuple):
  """The layout of a group's runs on the devices.

  The devices form rows of `data_parallel` each. The devices of a row train the same runs and share
  their batches.

  Attributes:
    devices: all devices in use, of all processes; the same number from each, in process order.
    data_parallel: number of devices that share the batch of a run; must divide the batch size and
      the number of devices. With several processes it must equal the number of devices.
    runs_per_device: maximum number of runs that a device trains at once, vectorized.
  """

  devices: Sequence[jax.Device]
  data_parallel: int = 1
  runs_per_device: int = 1

  def leading_axes(self, num_runs: int) -> tuple[int, ...]:
    """Returns the leading axes of per-run arrays: [rows], or [rows, runs of a device].

    Args:
      num_runs: number of runs in the group.
    """
    together = self.runs_at_once(num_runs)
    return (self._rows,) if together == 1 else (self._rows, together)

  def runs_at_once(self, num_runs: int) -> int:
    """Returns the number of runs that a device trains at once, of a group of `num_runs`."""
    return runs_together(num_runs, self._rows, self.runs_per_device)

  @property
  def _rows(self) -> int:
    return len(self.devices) // self.data_parallel


def runs_together(num_runs: int, rows: int, most: int) -> int:
  """Returns the number of runs that a device trains at once, `most` at most.

  It is the smallest number that needs no more rounds than `most` would.
  """
  rounds = math.ceil(num_runs / (rows * most))
  return math.ceil(num_runs / (rows * rounds))
