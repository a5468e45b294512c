"""The class `Sweep`: everything that the flags of the sweep command resolve to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.networks.cell_options import CellOption
from experiments.sweep.config import grid
from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.engine_flags import Shard
from experiments.sweep.config.run_tasks import Key, RunTasks, key_of
from experiments.sweep.config.runs import Run, Settings
from rnn_jax.tasks import DataFile
from rnn_jax.text import Corpus

# The subfolder for the runs by which `--select` chooses: the folder of a sweep of its own.
SELECTION = "selection"


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A sweep: its runs, their shared settings, the devices in use, and the output folder.

  Attributes:
    settings: settings that all runs share.
    axes: {axis of the design: its values}.
    options: cell options as given on the command line.
    design: how the axes' values are combined, a member of `grid.DESIGNS`.
    ids: {run id: run}.
    no_effect: sentences about settings that have no effect on some runs; see `grid.Expansion`.
    corpus: the text of the task `charlm`; None for sweeps without this task.
    tasks: {key of a run: its tasks}; see `tasks_of`.
    layout: devices, and how the runs are laid out on them.
    folder: output folder.
    checkpoint_every: optimization steps between checkpoints.
    shard: the part of the sweep that this process trains; None for all of it.
    keep_stale: whether records and checkpoints that other code made are used.
    select: axis whose best value is chosen for every setting; None to train all values.
    select_seed: seeds of the runs by which it is chosen.
    selected: what was chosen, one JSON object for each setting.
    engine: what trains the runs, a member of `engine_flags.ENGINE_NAMES`.
    overwrite: whether a sweep with other shared settings in the folder is replaced.
    retry_failed: whether failed runs are trained again.
    tracker: the tracker that records are sent to, or `none`; see `experiments.sweep.trackers`.
    remat: what the backward pass recomputes instead of storing it, `none` or `sqrt`; see `unroll`.
    imports: modules that `--import` names; without it, those that registered what the runs use.
    data_file: the data of the task `data_file`; None for sweeps without this task.
  """

  settings: Settings
  axes: Mapping[str, Sequence[object]]
  options: Sequence[CellOption]
  design: str
  ids: Mapping[str, Run]
  no_effect: Sequence[str]
  corpus: Corpus | None
  tasks: Mapping[Key, RunTasks]
  layout: Layout
  folder: Path
  checkpoint_every: int
  shard: Shard | None = None
  keep_stale: bool = False
  remat: str = "none"
  select: str | None = None
  select_seed: Sequence[int] = ()
  selected: Sequence[Mapping[str, object]] = ()
  engine: str = "local"
  overwrite: bool = False
  retry_failed: bool = False
  tracker: str = "none"
  imports: Sequence[str] = ()
  data_file: DataFile | None = None

  @functools.cached_property
  def names(self) -> dict[Run, str]:
    """Returns {run: run id}, the inverse of `ids`."""
    return {run: name for name, run in self.ids.items()}

  def tasks_of(self, run: Run) -> RunTasks:
    """Returns the tasks of a run."""
    return self.tasks[key_of(run)]

  @functools.cached_property
  def varied(self) -> set[str]:
    """Returns the settings in which runs of the sweep differ."""
    fields = [field.name for field in dataclasses.fields(Run)]
    return {name for name in fields if len({getattr(r, name) for r in self.ids.values()}) > 1}

  @property
  def sha256(self) -> str | None:
    """Returns the SHA-256 hash of the corpus; None if the sweep has no corpus."""
    return self.corpus.sha256 if self.corpus else None

  @property
  def corpus_flag(self) -> str:
    """Returns the value of `--corpus`: `stdlib`, or the path of the text."""
    return self.corpus.name if self.corpus else self.settings.corpus

  @property
  def input_flags(self) -> dict[str, str | None]:
    """Returns the flags that name the sweep's input files, with their paths."""
    return {
      "corpus": self.corpus_flag,
      "data_file": self.data_file.name if self.data_file else None,
    }

  @property
  def shared(self) -> dict[str, object]:
    """Returns what all sweeps in one folder must agree in, as JSON-serializable data."""
    return {**self.settings.as_dict, "corpus_sha256": self.sha256}

  @property
  def configuration(self) -> dict[str, object]:
    """Returns the resolved configuration, as JSON-serializable data."""
    axes = {name: list(values) for name, values in self.axes.items()}
    axes = {name: values for name, values in axes.items() if values != grid.ADDED.get(name)}
    options = [str(option) for option in self.options]
    how: dict[str, object] = {"design": self.design}
    if self.select is not None:
      how |= {"select": self.select, "select_seed": list(self.select_seed)}
    modules = {"import": list(self.imports)} if self.imports else {}
    return {**modules, **axes, "cell_option": options, **how, **self.shared}
