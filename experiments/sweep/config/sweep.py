"""A sweep: its settings and runs, and where they are trained and recorded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.networks.cell_options import CellOption
from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.engine_flags import Shard
from experiments.sweep.config.runs import Run, Settings
from rnn_jax.tasks import Task
from rnn_jax.text import Corpus


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A sweep: its runs, what they have in common, and where they are trained and recorded.

  Attributes:
    settings: settings that all runs share.
    axes: values of each axis of the grid, by name.
    options: cell options as given on the command line.
    ids: run id -> run.
    corpus: the task's text; None for tasks without one.
    task: built from the settings.
    layout: devices, and how the runs are laid out on them.
    folder: output folder.
    checkpoint_every: optimization steps between checkpoints.
    shard: the part of the sweep that this process trains; None for all of it.
  """

  settings: Settings
  axes: Mapping[str, Sequence[object]]
  options: Sequence[CellOption]
  ids: Mapping[str, Run]
  corpus: Corpus | None
  task: Task
  layout: Layout
  folder: Path
  checkpoint_every: int
  shard: Shard | None = None

  @functools.cached_property
  def names(self) -> dict[Run, str]:
    """Returns run -> run id."""
    return {run: name for name, run in self.ids.items()}

  @property
  def sha256(self) -> str | None:
    """Returns the hash of the corpus; None without one."""
    return self.corpus.sha256 if self.corpus else None

  @property
  def configuration(self) -> dict[str, object]:
    """Returns the resolved configuration, as plain data. A sweep resumes only if it is equal."""
    axes = {name: list(values) for name, values in self.axes.items()}
    return {
      **axes,
      "cell_option": [str(option) for option in self.options],
      **dataclasses.asdict(self.settings),
      "corpus_sha256": self.sha256,
    }
