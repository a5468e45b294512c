"""Trackio: one run for each run of a sweep, in a project named after the sweep's folder.

The runs are in Trackio's own local database, or in a Hugging Face Space if TRACKIO_SPACE_ID names
one.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.sweep.trackers.tracked_run import BINS, project


def open_run(
  folder: Path, name: str, config: Mapping[str, str | bool | int | float], key: str
) -> TrackioRun:
  """Opens a run, as `OpenRun` describes. An earlier attempt in the local database is deleted."""
  return TrackioRun(project(folder), name, {**config, "key": key})


class TrackioRun:
  """A `TrackedRun` in Trackio."""

  def __init__(
    self, project_name: str, name: str, config: Mapping[str, str | bool | int | float]
  ) -> None:
    import trackio
    from trackio import context_vars

    with contextlib.suppress(ValueError):  # raised if the project is new
      for run in trackio.Api().runs(project_name):
        if run.name == name and (run.config or {}).get("key") == config["key"]:
          run.delete()
    self._trackio = trackio
    # `init` ends the run that it knows as current, but several runs are open at a time.
    context_vars.current_run.set(None)
    # Statistics of the machine belong to no single run, since several train at a time.
    unwanted = dict.fromkeys(("embed", "auto_log_cpu", "auto_log_gpu"), False)
    self._run = trackio.init(project_name, name, config=dict(config), **unwanted)
    context_vars.current_run.set(None)
    self.view = f"trackio show --project {shlex.quote(project_name)}"

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of a training step."""
    self._run.log(dict(values), step=step)

  def histograms(self, step: int, values: Mapping[str, Float[np.ndarray, " n"]]) -> None:
    """Logs the distribution of each entry's values at a training step."""
    found = {n: self._trackio.Histogram(sample, num_bins=BINS) for n, sample in values.items()}
    self._run.log(found, step=step)

  def figure(self, name: str, path: Path) -> None:
    """Logs a PNG file."""
    self._run.log({name: self._trackio.Image(str(path))})

  def close(self, complete: bool) -> None:
    """Waits until Trackio has stored everything."""
    self._run.finish()
