"""From axes to runs, and from runs to groups that share one compiled program."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rnn_jax.cells import cell_options

AXES = (
  "cell",
  "depth",
  "truncation",
  "seed",
  "learning_rate",
  "clip_norm",
  "recurrent_gain",
  "forget_bias",
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all runs of a sweep have in common.

  Attributes:
    task: name of the task.
    corpus: `stdlib`, or the path of the text.
    hidden_size: width of every layer.
    sequence_length: time steps of a sequence.
    batch_size: sequences in a batch.
    steps: optimisation steps.
    optimizer: name of the optimiser.
    log_every: optimisation steps from one record of norms per time step to the next.
    measures: names of the measures, a comma list; empty for none.
    measure_every: optimisation steps from one measurement to the next.
  """

  task: str
  corpus: str
  hidden_size: int
  sequence_length: int
  batch_size: int
  steps: int
  optimizer: str
  log_every: int
  measures: str
  measure_every: int

  @property
  def measure_names(self) -> list[str]:
    """The measures, one by one."""
    return [name for name in self.measures.split(",") if name]


@dataclasses.dataclass(frozen=True)
class Run:
  """One point of the grid.

  Attributes:
    cell: name of the cell.
    depth: number of layers.
    truncation: steps of backpropagation through time; None for all.
    seed: of params and data.
    learning_rate: of the optimiser.
    clip_norm: largest global gradient norm; None for no clipping.
    recurrent_gain: factor on the recurrent kernels at initialisation.
    forget_bias: of the forget gates at initialisation; None where the cell has none.
  """

  cell: str
  depth: int
  truncation: int | None
  seed: int
  learning_rate: float
  clip_norm: float | None
  recurrent_gain: float
  forget_bias: float | None


def expand(axes: Mapping[str, Sequence[Any]]) -> list[Run]:
  """All combinations of the axes, the last axis fastest.

  An axis that a cell does not have (the forget bias of an Elman network) is not repeated for it:
  those runs would be the same.
  """
  runs = []
  for values in itertools.product(*(axes[name] for name in AXES)):
    run = Run(**dict(zip(AXES, values, strict=True)))
    if "forget_bias" not in cell_options(run.cell):
      run = dataclasses.replace(run, forget_bias=None)
    runs.append(run)
  return list(dict.fromkeys(runs))


def groups(runs: Iterable[Run]) -> dict[tuple[str, int], list[Run]]:
  """Runs by (cell, depth): within a group they share one compiled program."""
  found: dict[tuple[str, int], list[Run]] = {}
  for run in runs:
    found.setdefault((run.cell, run.depth), []).append(run)
  return found


def recorded_steps(settings: Settings) -> list[int]:
  """Steps that are logged or measured: 0, every `log_every`-th and `measure_every`-th, the last."""
  logged, measured = (
    range(0, settings.steps + 1, every) for every in (settings.log_every, settings.measure_every)
  )
  return sorted({*logged, *measured, settings.steps})


def config(run: Run, settings: Settings, corpus_sha256: str | None) -> dict[str, Any]:
  """Everything that decides what a run computes, as plain data."""
  return {
    **dataclasses.asdict(run),
    **dataclasses.asdict(settings),
    "corpus_sha256": corpus_sha256,
  }


def run_id(run: Run, settings: Settings, corpus_sha256: str | None) -> str:
  """A readable name that ends in a hash of the run's configuration: `lstm-d2-kfull-…-3f9a2c1e`."""
  text = json.dumps(config(run, settings, corpus_sha256), sort_keys=True)
  parts = [
    run.cell,
    f"d{run.depth}",
    f"k{show(run.truncation, 'full')}",
    f"s{run.seed}",
    f"lr{show(run.learning_rate)}",
    f"c{show(run.clip_norm)}",
    f"g{show(run.recurrent_gain)}",
  ]
  if run.forget_bias is not None:
    parts.append(f"b{show(run.forget_bias)}")
  return "-".join([*parts, hashlib.sha256(text.encode()).hexdigest()[:8]])


def flagfile(settings: Settings, axes: Mapping[str, Sequence[Any]]) -> str:
  """The flags that make this sweep again, one a line."""
  lines = []
  for name in AXES:
    none = "full" if name == "truncation" else "none"
    lines.append(f"--{name}={','.join(none if v is None else str(v) for v in axes[name])}")
  lines += [f"--{name}={value}" for name, value in dataclasses.asdict(settings).items()]
  return "".join(line + "\n" for line in lines)


def show(value: Any, none: str = "none") -> str:
  """A value as it is written on the command line."""
  if value is None:
    return none
  return f"{value:g}" if isinstance(value, float) else str(value)
