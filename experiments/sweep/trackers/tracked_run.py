"""The interface of all trackers: `TrackedRun`, and `OpenRun`, which returns one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from experiments.sweep.config.sweep import SELECTION

# Number of bins of a histogram.
BINS = 64


@runtime_checkable
class TrackedRun(Protocol):
  """A run in a tracker. Any method may raise any error."""

  # How to view the sweep's runs: a command or an address.
  view: str

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of a training step. Steps come in order, from step 0."""

  def histograms(self, step: int, values: Mapping[str, Float[np.ndarray, " n"]]) -> None:
    """Logs the distribution of each entry's values, which are finite, at a training step.

    All scalars come before the first histograms.
    """

  def figure(self, name: str, path: Path) -> None:
    """Logs a PNG file."""

  def close(self, complete: bool) -> None:
    """Waits until the tracker has everything; `complete` says whether the run's records are."""


class OpenRun(Protocol):
  """The function `open_run` of each tracker's module."""

  def __call__(
    self, folder: Path, name: str, config: Mapping[str, str | bool | int | float], key: str
  ) -> TrackedRun:
    """Opens a run in the tracker. What it holds of an earlier attempt is not logged twice.

    Args:
      folder: the sweep's folder.
      name: the run's name.
      config: the run's settings.
      key: hexadecimal digits, equal for attempts of the same code at the same run of a folder.
    """


def project(folder: Path) -> str:
  """Returns the name of a sweep's project in a tracker: that of the folder.

  For the selection of a sweep in `NAME`, it is `NAME-selection`.
  """
  folder = folder.absolute()
  return f"{folder.parent.name}-{SELECTION}" if folder.name == SELECTION else folder.name
