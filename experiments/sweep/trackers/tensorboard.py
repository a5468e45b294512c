"""TensorBoard: event files in FOLDER/tensorboard/NAME, written by tensorboardX."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.runtime import files
from experiments.sweep.trackers.tracked_run import BINS

# Seconds after which buffered events are written to disk, where TensorBoard sees them.
_FLUSH_SECONDS = 10.0


def open_run(
  folder: Path, name: str, config: Mapping[str, str | bool | int | float], key: str
) -> TensorBoardRun:
  """Opens a run, as `OpenRun` describes. Event files of an earlier attempt are replaced."""
  return TensorBoardRun(folder / "tensorboard", name, config)


class TensorBoardRun:
  """A `TrackedRun` in TensorBoard."""

  def __init__(
    self, folder: Path, name: str, config: Mapping[str, str | bool | int | float]
  ) -> None:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter

    self.view = f"tensorboard --logdir={shlex.quote(str(folder))}"
    path = folder / name
    files.remove(path)
    path.mkdir(parents=True)
    # tensorboardX's `SummaryWriter` writes in a thread, which an error ends; then calls block.
    self._writer = EventsWriter(str(path / "events"))
    self._flushed = time.monotonic()
    if config:
      metrics = dict.fromkeys(("loss", "held_out_loss"), 0.0)  # TensorBoard reads the names alone
      for part in summary.hparams(dict(config), metrics):
        self._write(part)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of a training step."""
    from tensorboardX.proto.summary_pb2 import Summary

    found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    self._write(Summary(value=found), step)

  def histograms(self, step: int, values: Mapping[str, Float[np.ndarray, " n"]]) -> None:
    """Logs the distribution of each entry's values at a training step."""
    from tensorboardX import summary

    for name, sample in values.items():
      self._write(summary.histogram(name, sample, BINS), step)

  def figure(self, name: str, path: Path) -> None:
    """Logs a PNG file."""
    from matplotlib import image
    from tensorboardX import summary

    self._write(summary.image(name, image.imread(path), dataformats="HWC"))

  def close(self, complete: bool) -> None:
    """Writes what is buffered, and closes the event file."""
    self._writer.close()

  def _write(self, found: Any, step: int = 0) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._writer.write_event(Event(summary=found, step=step, wall_time=time.time()))
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self._writer.flush()
      self._flushed = time.monotonic()
