"""The runs of a sweep: the settings of each run, the shared settings, run ids, configurations."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from experiments.networks.cell_options import Options, options_text

# The name of a user's text in the records. Its SHA-256 identifies the text, so neither run ids nor
# records depend on the folder that it is in.
CORPUS_FILE = "file"


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings that all runs of a sweep share.

  Attributes:
    task: name of the task.
    corpus: `stdlib`, or `file` for a user's text. Versions up to 0.1.0 recorded the text's path
      instead; a sweep that resumes in a folder of theirs keeps that path.
    hidden_size: hidden size of every layer; None if each run has its own hidden size.
    sequence_length: time steps of a sequence.
    batch_size: sequences in a batch.
    steps: optimization steps of each run.
    optimizer: name of the optimizer.
    log_every: optimization steps between records of the gradient norms at each time step.
    measures: names of the measures as a comma list; empty for none.
    measure_every: optimization steps between measurements.
    match_params: parameter budget for the recurrent layers, from which each run's hidden size is
      chosen; None if all runs have `hidden_size`.
  """

  task: str
  corpus: str
  hidden_size: int | None
  sequence_length: int
  batch_size: int
  steps: int
  optimizer: str
  log_every: int
  measures: str
  measure_every: int
  match_params: int | None = None

  @property
  def measure_names(self) -> list[str]:
    """Returns the names of the measures as a list."""
    return [name for name in self.measures.split(",") if name]


@dataclasses.dataclass(frozen=True)
class Run:
  """The settings of one run: a point of the sweep's grid.

  Attributes:
    cell: name of the cell.
    depth: number of layers.
    truncation: time steps after which backpropagation through time is cut; None for no cut.
    seed: seed of the params and of the data.
    learning_rate: learning rate of the optimizer.
    clip_norm: norm above which gradients are clipped; None for no clipping.
    recurrent_gain: factor on the recurrent kernels at initialization; None if the cell has no such
      option.
    forget_bias: bias of the forget gate at initialization; None if the cell has no such option.
    clip_by: what is clipped, a value of `--clip_by`; `global_norm` if nothing is clipped.
    options: the cell options that were given; the cell's other options have their defaults.
    hidden_size: hidden size of every layer, chosen to meet a parameter budget; None if
      `Settings.hidden_size` applies.
  """

  cell: str
  depth: int
  truncation: int | None
  seed: int
  learning_rate: float
  clip_norm: float | None
  recurrent_gain: float | None
  forget_bias: float | None
  clip_by: str = "global_norm"
  options: Options = ()
  hidden_size: int | None = None

  @property
  def network(self) -> str:
    """Returns the network as text, such as `elman activation=relu, depth 2, 69 units`.

    The hidden size (`units`) is included only if the run has its own, chosen to meet a parameter
    budget.
    """
    cell = f"{self.cell} {options_text(self.options)}".rstrip()
    width = "" if self.hidden_size is None else f", {self.hidden_size} units"
    return f"{cell}, depth {self.depth}{width}"


def hidden_size_of(run: Run, settings: Settings) -> int:
  """Returns the hidden size of the run's layers: the run's own if given, else the settings'.

  Raises:
    ValueError: if neither the run nor the settings have a hidden size.
  """
  own = settings.hidden_size if run.hidden_size is None else run.hidden_size
  if own is None:
    raise ValueError("hidden_size must be given by the settings or by the run, got neither.")
  return own


def run_config(run: Run, settings: Settings, corpus_sha256: str | None) -> dict[str, object]:
  """Returns everything that determines what a run computes, as JSON-serializable data."""
  return {
    **vars(run),
    **vars(settings),
    "hidden_size": hidden_size_of(run, settings),
    "corpus_sha256": corpus_sha256,
  }


def run_of(saved: Mapping[str, Any]) -> Run:
  """Returns the run described by a configuration from `run_config` that was saved as JSON.

  Fields that are missing from a configuration saved by an older version get their defaults.
  """
  names = [field.name for field in dataclasses.fields(Run) if field.name in saved]
  options = tuple((name, value) for name, value in saved.get("options", ()))
  return Run(**{**{name: saved[name] for name in names}, "options": options})


def run_id(run: Run, settings: Settings, corpus_sha256: str | None) -> str:
  """Returns a readable id that ends in a hash of the configuration: `lstm-d2-kfull-…-3f9a2c1e`."""
  text = json.dumps(run_config(run, settings, corpus_sha256), sort_keys=True)
  parts = [
    run.cell,
    f"d{run.depth}",
    f"k{_show(run.truncation, 'full')}",
    f"s{run.seed}",
    f"lr{_show(run.learning_rate)}",
    f"c{_show(run.clip_norm)}",
  ]
  if run.recurrent_gain is not None:
    parts.append(f"g{_show(run.recurrent_gain)}")
  if run.forget_bias is not None:
    parts.append(f"b{_show(run.forget_bias)}")
  if run.clip_by != "global_norm":
    parts.append(run.clip_by)
  if run.hidden_size is not None:
    parts.append(f"h{run.hidden_size}")
  if run.options:
    parts.append(options_text(run.options).replace(", ", "-"))
  return "-".join([*parts, hashlib.sha256(text.encode()).hexdigest()[:8]])


def _show(value: object, none: str = "none") -> str:
  """Returns a setting's value as it appears in a run id; for None, returns the argument `none`."""
  if value is None:
    return none
  return f"{value:g}" if isinstance(value, float) else str(value)
