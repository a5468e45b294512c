"""The flags of a sweep, and what they come to, checked before anything is compiled or written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.cli import command_line, parsers
from experiments.networks import cell_options
from experiments.networks.cell_options import CellOption
from experiments.runtime import hosts
from experiments.sweep.config import engine_flags, grid
from experiments.sweep.config import networks as sweep_networks
from experiments.sweep.config.engine_flags import Shard
from experiments.sweep.config.layout import Layout
from experiments.sweep.measures import MEASURES
from experiments.sweep.records import folder as sweep_folder
from rnn_jax.cells import CELLS
from rnn_jax.tasks import TASKS, Task
from rnn_jax.text import STANDARD_LIBRARY, Corpus, load_corpus
from rnn_jax.training import CLIP_BY, OPTIMIZERS

# Runs of a usual size leave most of an accelerator idle. CPU cores are busy with one, and XLA:CPU
# is slow at small batched products.
_RUNS_PER_ACCELERATOR = 16


def define() -> None:
  """All flags of the sweep."""
  axis, single, integer = parsers.define_axis, parsers.define, parsers.integer
  positive = parsers.positive
  axis(
    "cell",
    "elman",
    parsers.choice("cell", CELLS),
    "Name of a cell; --list_cells prints a table of them.",
  )
  axis("depth", "1", integer("depth"), "Number of recurrent layers.")
  axis(
    "truncation",
    "full",
    integer("truncation", none="full"),
    "Time steps after which backpropagation through time is cut, or full.",
    none="full",
  )
  axis("seed", "0", integer("seed", minimum=0), "Seed of parameters and data.")
  axis("learning_rate", "0.002", positive("learning_rate"), "Learning rate of the optimizer.")
  axis(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Largest norm that is not clipped, or none for no clipping; --clip_by says of what.",
  )
  axis(
    "clip_by",
    "global_norm",
    parsers.choice("clip_by", CLIP_BY),
    "What is clipped: global_norm, the whole gradient before an update; element, each of its "
    "entries; carry, dL/dh_t of each example's own loss at every time step of the backward pass.",
  )
  axis(
    "recurrent_gain",
    "1.0",
    parsers.number("recurrent_gain", "a finite number from 0", lambda v: v >= 0),
    "Factor on the recurrent kernels at initialisation; for cells that have them.",
  )
  axis(
    "forget_bias",
    "1.0",
    parsers.number("forget_bias", "a finite number", lambda v: True),
    "Forget gate bias at initialisation; for cells that have one.",
  )
  cell_options.define(axis=True)
  single("task", "charlm", parsers.choice("task", TASKS), f"What is learned: {', '.join(TASKS)}.")
  single(
    "corpus",
    STANDARD_LIBRARY,
    str,
    f"Text for task charlm: path of a file, or {STANDARD_LIBRARY} for the source of Python's "
    "standard library.",
  )
  single("hidden_size", "64", integer("hidden_size"), "Width of every recurrent layer, in units.")
  single("sequence_length", "128", integer("sequence_length"), "Length of a sequence, in steps.")
  single("batch_size", "32", integer("batch_size"), "Sequences in a batch.")
  single("steps", "200", integer("steps"), "Optimisation steps of each run.")
  single(
    "optimizer",
    "adam",
    parsers.choice("optimizer", OPTIMIZERS),
    f"Optimizer: {', '.join(OPTIMIZERS)}.",
  )
  single(
    "log_every",
    "20",
    integer("log_every"),
    "Optimisation steps from one record of gradient norms per time step to the next; the first "
    "and the last step are always recorded.",
  )
  single(
    "measures",
    "lag",
    parsers.subset("measure", MEASURES),
    "What to measure beside the norms of every step, a comma list, or none: "
    + "; ".join(f"{name}, {measure.note}" for name, measure in MEASURES.items())
    + ".",
  )
  single(
    "measure_every",
    "as_logged",
    integer("measure_every", none="as_logged"),
    "Optimisation steps from one measurement to the next; the first and the last step are always "
    "measured. A number, or as_logged, the default: where norms are logged.",
  )
  flags.DEFINE_string("output_dir", "results/sweep", "Folder for records and figures.")
  single(
    "devices",
    "all",
    integer("devices", none="all"),
    "Devices to use, of all processes; CPU cores are devices. A number, or all, the default.",
  )
  single(
    "data_parallel",
    "1",
    integer("data_parallel"),
    "Devices that share the batch of each run; must divide the batch size and the devices in use. "
    "With several processes it must be the number of devices in use.",
  )
  single(
    "runs_per_device",
    "auto",
    integer("runs_per_device", none="auto"),
    "Most runs that a device trains at a time, vectorised. A number, or auto, the default: 1 on "
    f"CPU, {_RUNS_PER_ACCELERATOR} elsewhere.",
  )
  flags.DEFINE_string(
    "compilation_cache",
    "auto",
    "Folder where compiled programs are kept, for later sweeps to load; auto for rnn_jax in the "
    "user's cache folder, or none.",
  )
  flags.DEFINE_boolean("dry_run", False, "Print runs, groups and compilations; write nothing.")
  single(
    "checkpoint_every",
    "1000",
    integer("checkpoint_every"),
    "Optimisation steps from one checkpoint to the next, from which a sweep that was interrupted "
    "goes on; rounded up to those of a call, 50.",
  )
  flags.DEFINE_boolean("retry_failed", False, "Train those runs again that have failed before.")
  flags.DEFINE_boolean("overwrite", False, "Replace another sweep in the output folder.")
  engine_flags.define()
  hosts.define()
  flags.adopt_module_key_flags(parsers)  # so that --help shows them
  flags.adopt_module_key_flags(cell_options)


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What the flags came to."""

  settings: grid.Settings
  axes: Mapping[str, Sequence[Any]]
  options: Sequence[CellOption]
  ids: Mapping[str, grid.Run]
  corpus: Corpus | None
  task: Task
  layout: Layout
  folder: Path
  checkpoint_every: int
  shard: Shard | None = None

  @functools.cached_property
  def names(self) -> dict[grid.Run, str]:
    """The id of each run."""
    return {run: name for name, run in self.ids.items()}

  @property
  def sha256(self) -> str | None:
    """Of the corpus, if there is one."""
    return self.corpus.sha256 if self.corpus else None

  @property
  def configuration(self) -> dict[str, Any]:
    """What must be equal for a sweep to go on in the same folder."""
    axes = {name: list(values) for name, values in self.axes.items()}
    return {
      **axes,
      "cell_option": [str(option) for option in self.options],
      **dataclasses.asdict(self.settings),
      "corpus_sha256": self.sha256,
    }


def resolve(arguments: list[str]) -> Sweep:
  """What the flags came to, once all is checked that can be before the first compilation.

  Args:
    arguments: what is left of the command line, which must be nothing.
  Raises:
    ValueError, TypeError: naming the flag, the rule and what came.
  """
  command_line.check_no_arguments(arguments)
  values = flags.FLAGS
  corpus, path = _corpus()
  given: dict[str, Any] = {f.name: values[f.name].value for f in dataclasses.fields(grid.Settings)}
  measure_every = values.measure_every or values.log_every
  given |= {"corpus": path, "measure_every": measure_every}
  settings = grid.Settings(**{**given, "hidden_size": cell_options.fixed_width()})
  text = {} if corpus is None else {"corpus": corpus}
  task = _named(TASKS[settings.task], settings.sequence_length, settings.batch_size, **text)
  layout = _layout(settings.batch_size)
  length = settings.sequence_length
  reach = [length if k is None else min(k, length) for k in values.truncation]
  if len(set(reach)) < len(reach):
    raise ValueError(
      f"--truncation must not hold a value twice; at --sequence_length={length} all from {length} "
      "on are full."
    )
  axes: dict[str, Any] = {name: values[name].value for name in grid.AXES}
  options = values.cell_option or []
  by_cell = cell_options.by_cell(options, axes["cell"], grid.AXES)
  runs = grid.expand(axes, by_cell)
  together = min(values.runs_per_device or 1, len(runs))
  runs, networks = sweep_networks.networks(runs, settings, task, together)
  cells = [network.cell for network in networks]
  for name in settings.measure_names:
    if not any(map(MEASURES[name].fits, cells)):
      raise ValueError(
        f"--measures must not hold {name} where no cell has {MEASURES[name].needs}, "
        f"got {','.join(values.cell)}."
      )
  sha256 = corpus.sha256 if corpus else None
  ids = {grid.run_id(run, settings, sha256): run for run in runs}
  if not values.output_dir:
    raise ValueError("--output_dir must name a folder, got ''.")
  folder = command_line.path("output_dir", values.output_dir)
  parts = settings, axes, options, ids, corpus, task, layout, folder
  shard = engine_flags.shard()
  sweep = Sweep(*parts, checkpoint_every=values.checkpoint_every, shard=shard)
  same = sweep.configuration, shard, len(layout.devices), layout.runs_per_device
  if hosts.any_of(hosts.broadcast(same) != same):
    raise ValueError("--coordinator must join processes with equal flags, and equal corpora.")
  hosts.by_writer(sweep_folder.check_folder, folder, sweep.configuration, values.overwrite)
  return sweep


def _corpus() -> tuple[Corpus | None, str]:
  """The text of the task, if it has one, and what the records call it: `stdlib` or its path."""
  values = flags.FLAGS
  path = values.corpus
  if values.task != "charlm":
    if values["corpus"].present and path != STANDARD_LIBRARY:
      raise ValueError(f"--corpus is for task charlm, got {path} with {values.task}.")
    return None, STANDARD_LIBRARY
  if path != STANDARD_LIBRARY:
    path = str(command_line.path("corpus", path).absolute())
  return _named(load_corpus, path), path


def _layout(batch_size: int) -> Layout:
  """Where the runs are trained."""
  values, processes = flags.FLAGS, jax.process_count()
  devices = engine_flags.devices()
  count = values.devices or len(devices)
  if count > len(devices):
    kind = "CPU cores" if devices[0].platform == "cpu" else f"{devices[0].platform} devices"
    where = "of this machine" if processes == 1 else f"of {processes} processes"
    if values.engine != "local":
      kind, where = "devices", "of a task"
    raise ValueError(f"--devices must be at most the {len(devices)} {kind} {where}, got {count}.")
  if count % processes:
    raise ValueError(f"--devices must be as many in each of {processes} processes, got {count}.")
  own = [devices] if processes == 1 else [jax.local_devices(i) for i in range(processes)]
  devices = [device for some in own for device in some[: count // processes]]
  for whole, text in (
    (batch_size, f"--batch_size={batch_size}"),
    (len(devices), f"the number of devices in use, {len(devices)}"),
  ):
    if whole % values.data_parallel:
      raise ValueError(f"--data_parallel must divide {text}, got {values.data_parallel}.")
  if processes > 1 and values.data_parallel != len(devices):
    raise ValueError(
      f"--data_parallel must be the number of devices in use, {len(devices)}, with several "
      f"processes, got {values.data_parallel}."
    )
  runs_per_device = values.runs_per_device
  if runs_per_device is None:
    runs_per_device = 1 if devices[0].platform == "cpu" else _RUNS_PER_ACCELERATOR
  return Layout(devices, values.data_parallel, runs_per_device)


def _named(function: Any, *args: Any, **kwargs: Any) -> Any:
  """Calls a function whose errors begin with the name of a flag."""
  try:
    return function(*args, **kwargs)
  except (TypeError, ValueError) as error:
    raise ValueError(f"--{error}") from None
  except ImportError as error:  # of what a task needs beside
    raise ValueError(str(error)) from None
