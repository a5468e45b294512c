"""From axes to runs, and from runs to groups that share one compiled program."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.networks.cell_options import CellOption, Options, options_text
from rnn_jax.cells import cell_options

AXES = (
  "cell",
  "depth",
  "truncation",
  "seed",
  "learning_rate",
  "clip_norm",
  "clip_by",
  "recurrent_gain",
  "forget_bias",
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all runs of a sweep have in common.

  Attributes:
    task: name of the task.
    corpus: `stdlib`, or the path of the text.
    hidden_size: width of every layer; None where each run has its own.
    sequence_length: time steps of a sequence.
    batch_size: sequences in a batch.
    steps: optimisation steps.
    optimizer: name of the optimiser.
    log_every: optimisation steps from one record of norms per time step to the next.
    measures: names of the measures, a comma list; empty for none.
    measure_every: optimisation steps from one measurement to the next.
    match_params: number of params of the recurrent layers together, by which each run's width is
      chosen; None where all runs are of `hidden_size`.
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
    clip_norm: largest norm that is not clipped; None for no clipping.
    recurrent_gain: factor on the recurrent kernels at initialisation; None where the cell has none.
    forget_bias: of the forget gates at initialisation; None where the cell has none.
    clip_by: what is clipped, and where; `global_norm`, the default, where nothing is.
    options: other options of the cell, as they were given; the rest have their defaults.
    hidden_size: width of every layer, where it is not that of all runs.
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
    """Cell, options and depth in words; the width too, where it is the run's own."""
    cell = f"{self.cell} {options_text(self.options)}".rstrip()
    width = "" if self.hidden_size is None else f", {self.hidden_size} units"
    return f"{cell}, depth {self.depth}{width}"


def expand(
  axes: Mapping[str, Sequence[Any]],
  options: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> list[Run]:
  """All combinations of the axes, the last axis fastest, and of each cell's own options.

  An axis that a cell does not have (the forget bias of an Elman network) is not repeated for it,
  nor is the way to clip where nothing is clipped: those runs would be the same.

  Args:
    axes: the values of each of `AXES`.
    options: cell -> name -> values, the names in alphabetical order; None for no options.
  """
  runs = []
  for values in itertools.product(*(axes[name] for name in AXES)):
    point = dict(zip(AXES, values, strict=True))
    for name in {"recurrent_gain", "forget_bias"}.difference(cell_options(point["cell"])):
      point[name] = None
    run = Run(**point)
    if run.clip_norm is None:
      run = dataclasses.replace(run, clip_by="global_norm")
    own = (options or {}).get(run.cell, {})
    for chosen in itertools.product(*own.values()):
      runs.append(dataclasses.replace(run, options=tuple(zip(own, chosen, strict=True))))
  return list(dict.fromkeys(runs))


Group = tuple[str, int, str, Options]


def groups(runs: Iterable[Run]) -> dict[Group, list[Run]]:
  """Runs by (cell, depth, clip_by, options): within a group they share one compiled program."""
  found: dict[Group, list[Run]] = {}
  for run in runs:
    found.setdefault((run.cell, run.depth, run.clip_by, run.options), []).append(run)
  return found


def width(run: Run, settings: Settings) -> int:
  """Of every layer of the run."""
  own = settings.hidden_size if run.hidden_size is None else run.hidden_size
  if own is None:
    raise ValueError("hidden_size must be that of all runs, or the run's own, got neither.")
  return own


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
    "hidden_size": width(run, settings),
    "corpus_sha256": corpus_sha256,
  }


def run_of(saved: Mapping[str, Any]) -> Run:
  """The run, out of what JSON makes of it or of its configuration; older ones lack some of it."""
  names = [field.name for field in dataclasses.fields(Run) if field.name in saved]
  options = tuple((name, value) for name, value in saved.get("options", ()))
  return Run(**{**{name: saved[name] for name in names}, "options": options})


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
  ]
  if run.recurrent_gain is not None:
    parts.append(f"g{show(run.recurrent_gain)}")
  if run.forget_bias is not None:
    parts.append(f"b{show(run.forget_bias)}")
  if run.clip_by != "global_norm":
    parts.append(run.clip_by)
  if run.hidden_size is not None:
    parts.append(f"h{run.hidden_size}")
  if run.options:
    parts.append(options_text(run.options).replace(", ", "-"))
  return "-".join([*parts, hashlib.sha256(text.encode()).hexdigest()[:8]])


def flagfile(
  settings: Settings, axes: Mapping[str, Sequence[Any]], options: Sequence[CellOption] = ()
) -> str:
  """The flags that make this sweep again, one a line."""
  lines = []
  for name in AXES:
    none = "full" if name == "truncation" else "none"
    lines.append(f"--{name}={','.join(none if v is None else str(v) for v in axes[name])}")
  lines += [f"--cell_option={option}" for option in options]
  lines += [
    f"--{name}={value}"
    for name, value in dataclasses.asdict(settings).items()
    if value is not None  # one of hidden_size and match_params
  ]
  return "".join(line + "\n" for line in lines)


def show(value: Any, none: str = "none") -> str:
  """A value as it is written on the command line."""
  if value is None:
    return none
  return f"{value:g}" if isinstance(value, float) else str(value)
