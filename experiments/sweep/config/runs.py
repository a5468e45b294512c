"""The runs of a sweep: the settings of each run, the shared settings, run ids, configurations."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from experiments.networks.cell_options import Options, options_text
from rnn_jax.text import STANDARD_LIBRARY

# The name of a user's text in the records. Its SHA-256 identifies the text, so neither run ids nor
# records depend on the folder that it is in.
CORPUS_FILE = "file"
# How a run's params are drawn, apart from what its cell says; see `initial_params`.
INITIALIZATIONS = ("default", "critical", "lsuv", "unitary")
# The task that reads a text, and the one that reads a data file.
TEXT_TASK = "charlm"
DATA_TASK = "data_file"


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings that all runs of a sweep share: the text, and what is recorded.

  Attributes:
    corpus: `stdlib`, or `file` for a user's text. Versions up to 0.1.0 recorded the text's path
      instead.
    log_every: optimization steps between records of the gradient norms at each time step.
    measures: names of the measures as a comma list; empty for none.
    measure_every: optimization steps between measurements.
    match_params: parameter budget for the recurrent layers, from which each run's hidden size is
      chosen; None if the hidden sizes are given.
    evaluate_every: optimization steps between evaluations on held-out data; None to evaluate only
      at the last step.
    test_sequence_length: sequence lengths at which the held-out loss is evaluated in addition, as a
      comma list of integers or of multiples of the run's own length, such as `2T`; empty for none.
    data_file: `sha256:` and the SHA-256 of the data file, which identifies the data; None if no
      task reads one.
  """

  corpus: str
  log_every: int
  measures: str
  measure_every: int
  match_params: int | None = None
  evaluate_every: int | None = None
  test_sequence_length: str = ""
  data_file: str | None = None

  @property
  def as_dict(self) -> dict[str, Any]:
    """Returns the settings as {name: value}, without a data file that no task reads."""
    own = dataclasses.asdict(self)
    if own["data_file"] is None:  # configurations from before there were data files lack it, too
      del own["data_file"]
    return own

  @property
  def measure_names(self) -> list[str]:
    """Returns the names of the measures as a list."""
    return [name for name in self.measures.split(",") if name]

  def test_lengths(self, run: Run) -> list[int]:
    """Returns the sequence lengths at which a run's held-out loss is evaluated, its own first."""
    own = run.sequence_length
    texts = [text for text in self.test_sequence_length.split(",") if text]
    lengths = [int(t[:-1] or 1) * own if t.endswith("T") else int(t) for t in texts]
    return list(dict.fromkeys([own, *lengths]))


def added(default: Any) -> Any:
  """Returns a field of `Run` that older versions lack, whose default is what they did.

  A configuration leaves it out where it has its default, so run ids and records stay valid.
  """
  return dataclasses.field(default=default, metadata={"added": True})


@dataclasses.dataclass(frozen=True)
class Run:
  """The settings of one run: a point of the sweep's design.

  Attributes:
    cell: name of the cell.
    depth: number of layers.
    truncation: time steps after which backpropagation through time is cut; None for no cut, and
      for another gradient estimator.
    seed: seed of the params and of the data.
    learning_rate: learning rate of the optimizer.
    clip_norm: norm above which gradients are clipped; None for no clipping.
    recurrent_gain: factor on the recurrent kernels at initialization; None if the cell has no such
      option.
    forget_bias: bias of the forget gate at initialization; None if the cell has no such option, or
      if another option replaces it.
    clip_by: what is clipped, a value of `--clip_by`; `global_norm` if nothing is clipped.
    options: the cell options that were given; the cell's other options have their defaults.
    task: name of the task.
    hidden_size: hidden size of every layer; None until it is chosen to meet a parameter budget.
    sequence_length: time steps of a sequence.
    batch_size: sequences in a batch.
    steps: optimization steps.
    optimizer: name of the optimizer.
    layer_norm: whether each layer's input is normalized, from the second layer on.
    residual: whether each layer's input is added to its output, from the second layer on.
    dropout: dropout rate between layers; 0 for no dropout.
    zoneout: probability that a unit keeps its previous carry; 0 for no zoneout.
    gradient: name of the gradient estimator, for `make_estimator`.
    schedule: how the learning rate falls, a member of `SCHEDULES`.
    warmup: optimization steps over which the learning rate first grows from 0.
    momentum: factor on the accumulated steps of `sgd` and `rmsprop`; 0 for no momentum.
    weight_decay: share of the params that a step at learning rate 1 removes; 0 for none.
    omega_penalty: weight of Pascanu's Ω in the objective; 0 for none.
    spectral_penalty: weight of the penalty on spectral radii other than 1; 0 for none.
    flossing: weight of the squared Lyapunov exponents in the objective; 0 for none.
    flossing_exponents: number of Lyapunov exponents of each layer that flossing pushes toward 0.
    flossing_steps: steps on the squared Lyapunov exponents alone, before training.
    initialization: how the params are drawn, a member of `INITIALIZATIONS`.
    dtype: precision of the network in training, a value of `--dtype`.
    loss_scale: factor on the loss, or `dynamic`; None for no scaling.
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
  task: str = dataclasses.field(kw_only=True)
  hidden_size: int | None = dataclasses.field(kw_only=True)
  sequence_length: int = dataclasses.field(kw_only=True)
  batch_size: int = dataclasses.field(kw_only=True)
  steps: int = dataclasses.field(kw_only=True)
  optimizer: str = dataclasses.field(kw_only=True)
  layer_norm: bool = False
  residual: bool = False
  dropout: float = 0.0
  zoneout: float = 0.0
  gradient: str = added("bptt")
  schedule: str = added("constant")
  warmup: int = added(0)
  momentum: float = added(0.0)
  weight_decay: float = added(0.0)
  omega_penalty: float = added(0.0)
  spectral_penalty: float = added(0.0)
  flossing: float = added(0.0)
  flossing_exponents: int = added(1)
  flossing_steps: int = added(0)
  initialization: str = added("default")
  dtype: str = added("float32")
  loss_scale: float | str | None = added(None)

  @property
  def network(self) -> str:
    """Returns the network as text, such as `elman activation=relu, depth 2, zoneout 0.1`."""
    parts = [f"{self.cell} {options_text(self.options)}".rstrip(), f"depth {self.depth}"]
    parts += [name.replace("_", " ") for name in ("layer_norm", "residual") if getattr(self, name)]
    rates = {name: getattr(self, name) for name in ("dropout", "zoneout")}
    return ", ".join(parts + [f"{name} {rate:g}" for name, rate in rates.items() if rate > 0])

  @property
  def width(self) -> int:
    """Returns the hidden size.

    Raises:
      ValueError: if it has not been chosen yet.
    """
    if self.hidden_size is None:
      raise ValueError("hidden_size must be known, got None.")
    return self.hidden_size


# {field of a run that older versions lack: its default}
ADDED: Mapping[str, Any] = {
  field.name: field.default for field in dataclasses.fields(Run) if field.metadata.get("added")
}


def run_config(run: Run, settings: Settings, corpus_sha256: str | None) -> dict[str, object]:
  """Returns everything that determines a run's records, as JSON-serializable data.

  Args:
    run: the run.
    settings: settings of the sweep.
    corpus_sha256: SHA-256 of the sweep's text. It is part of the configuration only if the run's
      task reads the text.
  """
  if run.task != TEXT_TASK:
    settings, corpus_sha256 = dataclasses.replace(settings, corpus=STANDARD_LIBRARY), None
  if run.task != DATA_TASK:
    settings = dataclasses.replace(settings, data_file=None)
  names = [field.name for field in dataclasses.fields(run)]
  own = {name: getattr(run, name) for name in names if name not in _at_default(run)}
  return {**own, **settings.as_dict, "corpus_sha256": corpus_sha256}


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
  parts.append(f"h{run.hidden_size}")
  parts += [name for name in ("layer_norm", "residual") if getattr(run, name)]
  rates = {"dropout": run.dropout, "zoneout": run.zoneout}
  parts += [f"{name}{_show(rate)}" for name, rate in rates.items() if rate > 0]
  for name in ADDED:
    if name not in _at_default(run):
      value = _show(getattr(run, name))
      parts.append(
        value if name in ("gradient", "schedule", "initialization", "dtype") else f"{name}{value}"
      )
  if run.options:
    parts.append(options_text(run.options).replace(", ", "-"))
  return "-".join([*parts, hashlib.sha256(text.encode()).hexdigest()[:8]])


def _at_default(run: Run) -> set[str]:
  """Returns those fields in `ADDED` that have their default."""
  return {name for name, default in ADDED.items() if getattr(run, name) == default}


def _show(value: object, none: str = "none") -> str:
  """Returns a setting's value as it appears in a run id; for None, returns the argument `none`."""
  if value is None:
    return none
  return f"{value:g}" if isinstance(value, float) else str(value)
