"""Weights & Biases: one run for each run of a sweep, in a project named after the sweep's folder.

The runs' local files are in FOLDER/wandb. With WANDB_MODE=offline they are all that is written, and
`wandb sync` uploads them later.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.runtime import files
from experiments.sweep.trackers.tracked_run import BINS, project

# Seconds that W&B may take to upload the last data of a run.
_SECONDS = 60
# W&B accepts neither these characters in a project's name nor more than 128.
_REFUSED, _LONGEST = re.compile(r"[/\\#?%:]"), 128


def log_in() -> None:
  """Logs in to W&B unless it is offline; may ask for an API key.

  Raises:
    ValueError: if the login fails.
  """
  import wandb

  if wandb.setup().settings.mode in ("offline", "disabled"):
    return
  try:
    wandb.login()
  except Exception as error:  # of many types, e.g. of the HTTP library
    raise ValueError(
      f"--tracker=wandb could not log in: {error} Run wandb login, or set WANDB_MODE=offline."
    ) from None


def open_run(
  folder: Path, name: str, config: Mapping[str, str | bool | int | float], key: str
) -> WandbRun:
  """Opens a run, as `OpenRun` describes.

  Online, W&B resumes the run if it has it. Offline, the files of an earlier attempt are deleted.
  """
  return WandbRun(folder, name, config, key)


class WandbRun:
  """A `TrackedRun` in W&B.

  The axis of its charts is the metric `step`. W&B's own step counts the calls, since W&B accepts
  none for an earlier step, as the histograms are.
  """

  def __init__(
    self,
    folder: Path,
    name: str,
    config: Mapping[str, str | bool | int | float],
    run_id: str,
  ) -> None:
    import wandb

    group = _REFUSED.sub("-", project(folder))[:_LONGEST]
    if wandb.setup().settings.mode == "offline":
      files.remove(*(folder / "wandb").glob(f"offline-run-*-{run_id}"))
    self._wandb = wandb
    self._run = wandb.init(
      project=os.environ.get("WANDB_PROJECT", group),
      group=group,
      id=run_id,
      name=name,
      config=dict(config),
      dir=folder,
      resume="allow",
      reinit="create_new",
      settings=wandb.Settings(
        console="off",
        silent=True,
        symlink=False,
        # Statistics of the machine belong to no single run, since several train at a time.
        x_disable_stats=True,
        finish_timeout=_SECONDS,
        finish_timeout_raises=True,
      ),
    )
    self._run.define_metric("*", step_metric="step")
    self._known, self._calls = self._run.step, 0
    offline = f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    self.view = offline if self._run.offline else str(self._run.project_url)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of a training step."""
    self._log({**values, "step": step})

  def histograms(self, step: int, values: Mapping[str, Float[np.ndarray, " n"]]) -> None:
    """Logs the distribution of each entry's values at a training step."""
    found = {n: self._wandb.Histogram(sample, num_bins=BINS) for n, sample in values.items()}
    self._log({**found, "step": step})

  def figure(self, name: str, path: Path) -> None:
    """Logs a PNG file."""
    self._run.log({name: self._wandb.Image(str(path))})

  def close(self, complete: bool) -> None:
    """Waits until W&B has uploaded everything; a run that is not complete is marked as failed."""
    self._run.finish(exit_code=0 if complete else 1)

  def _log(self, values: dict[str, Any]) -> None:
    """Logs values, unless this call was made by the run that is resumed."""
    if self._calls >= self._known:
      self._run.log(values)
    self._calls += 1
