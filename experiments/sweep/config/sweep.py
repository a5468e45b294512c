"""The class `Sweep`: everything that the flags of the sweep command resolve to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.networks.cell_options import CellOption
from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.engine_flags import Shard
from experiments.sweep.config.runs import Run, Settings, run_id
from rnn_jax.tasks import Task
from rnn_jax.text import Corpus


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A sweep: its runs, their shared settings, the devices in use, and the output folder.

  Attributes:
    settings: settings that all runs share.
    axes: {axis of the grid: its values}.
    options: cell options as given on the command line.
    ids: {run id: run}.
    corpus: the task's text; None for tasks without text.
    task: the task, built from the settings.
    layout: devices, and how the runs are laid out on them.
    folder: output folder.
    checkpoint_every: optimization steps between checkpoints.
    shard: the part of the sweep that this process trains; None for all of it.
    keep_stale: whether records and checkpoints that other code made are used.
    remat: what the backward pass recomputes instead of storing it, `none` or `sqrt`; see `unroll`.
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
  keep_stale: bool = False
  remat: str = "none"

  @functools.cached_property
  def names(self) -> dict[Run, str]:
    """Returns {run: run id}, the inverse of `ids`."""
    return {run: name for name, run in self.ids.items()}

  @property
  def sha256(self) -> str | None:
    """Returns the SHA-256 hash of the corpus; None if the sweep has no corpus."""
    return self.corpus.sha256 if self.corpus else None

  @property
  def flag_settings(self) -> Settings:
    """Returns the settings as flags give them: `corpus` is `stdlib` or the path of the text."""
    name = self.corpus.name if self.corpus else self.settings.corpus
    return dataclasses.replace(self.settings, corpus=name)

  def with_corpus_name(self, name: str) -> Sweep:
    """Returns the same sweep with another name of its text in the records, hence other run ids."""
    if name == self.settings.corpus:
      return self
    settings = dataclasses.replace(self.settings, corpus=name)
    ids = {run_id(run, settings, self.sha256): run for run in self.ids.values()}
    return dataclasses.replace(self, settings=settings, ids=ids)

  @property
  def configuration(self) -> dict[str, object]:
    """Returns the resolved configuration, as JSON-serializable data.

    A sweep resumes in a folder only if the configuration recorded there equals this one.
    """
    axes = {name: list(values) for name, values in self.axes.items()}
    return {
      **axes,
      "cell_option": [str(option) for option in self.options],
      **dataclasses.asdict(self.settings),
      "corpus_sha256": self.sha256,
    }
