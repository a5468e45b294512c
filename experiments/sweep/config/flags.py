"""The table of the sweep command's flags, and their text in a flagfile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.cli import flag_table, plugins
from experiments.cli.flag_table import Flag, grouped
from experiments.cli.parsers import (
  Parse,
  choice,
  integer,
  lengths,
  number,
  positive,
  several,
  subset,
)
from experiments.networks import cell_options, layers
from experiments.sweep.config import engine_flags, grid, tracker_flags
from experiments.sweep.config.device_layout import RUNS_PER_ACCELERATOR
from experiments.sweep.config.grid import DESIGNS
from experiments.sweep.config.runs import INITIALIZATIONS
from experiments.sweep.measures import MEASURES
from rnn_jax import checks
from rnn_jax.cells import CELLS
from rnn_jax.estimators import ESTIMATORS, estimator_name
from rnn_jax.precision import DTYPES
from rnn_jax.tasks import TASKS
from rnn_jax.text import STANDARD_LIBRARY
from rnn_jax.training import CLIP_BY, OPTIMIZERS, SCHEDULES


def _weight(name: str) -> Parse:
  """Returns the parser of a penalty's weight."""
  return number(name, "a finite number from 0", lambda v: v >= 0)


def _gradient(text: str) -> str:
  """Parses the name of a rule for the gradient; returns it with its number."""
  rules = [name for name in ESTIMATORS if name != "tbptt"]  # that is bptt with --truncation
  checks.choice("gradient", text.rstrip("0123456789."), rules)
  try:
    return estimator_name(text)
  except (TypeError, ValueError) as error:
    raise ValueError(f"gradient {text} has an invalid number: {error}") from None


_SCALE = number("loss_scale", "dynamic, or a finite number above 0", lambda v: v > 0, "none")

_AXES = (
  Flag(
    "cell",
    "elman",
    choice("cell", CELLS, hint=plugins.IMPORT_HINT),
    "Name of a cell; --list_cells prints a table of them.",
    "axis",
  ),
  Flag("depth", "1", integer("depth"), "Number of recurrent layers.", "axis"),
  Flag(
    "hidden_size", "64", integer("hidden_size"), "Hidden size of every recurrent layer.", "axis"
  ),
  layers.LAYER_NORM._replace(kind="axis"),
  layers.RESIDUAL._replace(kind="axis"),
  layers.DROPOUT._replace(kind="axis"),
  layers.ZONEOUT._replace(kind="axis"),
  Flag(
    "task",
    "charlm",
    choice("task", TASKS, hint=plugins.IMPORT_HINT),
    f"Task to learn: {', '.join(TASKS)}.",
    "axis",
  ),
  Flag("sequence_length", "128", integer("sequence_length"), "Time steps of a sequence.", "axis"),
  Flag("batch_size", "32", integer("batch_size"), "Sequences in a batch.", "axis"),
  Flag("steps", "200", integer("steps"), "Optimization steps of each run.", "axis"),
  Flag(
    "optimizer",
    "adam",
    choice("optimizer", OPTIMIZERS),
    f"Optimizer: {', '.join(OPTIMIZERS)}.",
    "axis",
  ),
  Flag(
    "dtype",
    "float32",
    choice("dtype", DTYPES),
    "Precision in which the network trains: float32, bfloat16 or float16. Params, optimizer, loss, "
    "held-out loss and all measures but underflow are in float32 always.",
    "axis",
  ),
  Flag(
    "loss_scale",
    "none",
    lambda text: text if text == "dynamic" else _SCALE(text),
    "Factor on the loss that keeps small gradients from becoming zero in half precision: a number; "
    "dynamic, which is halved when a gradient overflows, whose update is skipped, and doubled "
    "after 2000 updates without overflow; or none.",
    "axis",
  ),
  Flag(
    "truncation",
    "full",
    integer("truncation", none="full"),
    "Number of time steps after which backpropagation through time is cut, or full for no cut.",
    "axis",
  ),
  Flag(
    "gradient",
    "bptt",
    _gradient,
    "Rule for the gradient through time: bptt (backpropagation, cut by --truncation), artbpC (cuts "
    "with probability C, without bias), h_detachP (detaches h with probability P), fptt (errors "
    "forward in time), rtrl, snapN (entries of rtrl reached in N steps), rflo (local Jacobian), "
    "uoroS (S random rank-one matrices) or kf_rtrl (a random Kronecker product). Without a number, "
    "C is 0.1, P 0.25, N 1 and S 1.",
    "axis",
  ),
  Flag("seed", "0", integer("seed", minimum=0), "Seed of the params and of the data.", "axis"),
  Flag(
    "learning_rate",
    "0.002",
    positive("learning_rate"),
    "Learning rate of the optimizer.",
    "axis",
  ),
  Flag(
    "schedule",
    "constant",
    choice("schedule", SCHEDULES),
    "How the learning rate falls from the end of the warm-up to the last step: constant, not at "
    "all; linear or cosine, to 0.",
    "axis",
  ),
  Flag(
    "warmup",
    "0",
    integer("warmup", minimum=0),
    "Optimization steps over which the learning rate first grows from 0; fewer than --steps.",
    "axis",
  ),
  Flag(
    "momentum",
    "0",
    number("momentum", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "Momentum of sgd and rmsprop; adam has its own.",
    "axis",
  ),
  Flag(
    "weight_decay",
    "0",
    number("weight_decay", "a finite number from 0", lambda v: v >= 0),
    "Decoupled weight decay: each step subtracts learning rate times this times the params.",
    "axis",
  ),
  Flag(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Norm above which gradients are clipped, or none for no clipping; --clip_by selects what is "
    "clipped.",
    "axis",
  ),
  Flag(
    "clip_by",
    "global_norm",
    choice("clip_by", CLIP_BY),
    "What is clipped: global_norm, the whole gradient before each update; element, each of its "
    "entries; carry, dL/dh_t of each example's own loss at every time step of the backward pass; "
    "adaptive, the gradient of each unit's weights, where --clip_norm is its largest ratio to the "
    "norm of the weights.",
    "axis",
  ),
  Flag(
    "omega_penalty",
    "0",
    _weight("omega_penalty"),
    "Weight of Pascanu's Ω in the objective, which keeps gradients from vanishing; 0 for none.",
    "axis",
  ),
  Flag(
    "spectral_penalty",
    "0",
    _weight("spectral_penalty"),
    "Weight of (ρ - 1)² in the objective, for the spectral radius ρ of each recurrent kernel; 0 "
    "for none.",
    "axis",
  ),
  Flag(
    "flossing",
    "0",
    _weight("flossing"),
    "Weight of the squares of the leading Lyapunov exponents in the objective (gradient flossing); "
    "0 for none.",
    "axis",
  ),
  Flag(
    "flossing_exponents",
    "1",
    integer("flossing_exponents"),
    "Number of Lyapunov exponents of each layer that flossing pushes toward 0.",
    "axis",
  ),
  Flag(
    "flossing_steps",
    "0",
    integer("flossing_steps", minimum=0),
    "Steps of gradient flossing before training, of Adam at the run's learning rate.",
    "axis",
  ),
  Flag(
    "initialization",
    "default",
    choice("initialization", INITIALIZATIONS),
    "How the params are drawn: default, as the cell says; critical, with the recurrent gain at "
    "which small perturbations of the zero state neither grow nor decay; unitary, orthogonal "
    "kernels; lsuv, orthogonal kernels, and input kernels that give pre-activations of variance 1.",
    "axis",
  ),
  Flag(
    "recurrent_gain",
    "1.0",
    number("recurrent_gain", "a finite number from 0", lambda v: v >= 0),
    "Factor on the recurrent kernels at initialization, for cells that have them.",
    "axis",
  ),
  Flag(
    "forget_bias",
    "1.0",
    number("forget_bias", "a finite number", lambda v: True),
    "Bias of the forget gate at initialization, for cells that have one.",
    "axis",
  ),
  cell_options.flag(axis=True),
)

_TRAINING = (
  Flag(
    "design",
    "grid",
    choice("design", DESIGNS),
    "How the axes are combined: grid, every combination; one_at_a_time, a base of the first values "
    "and every other value tried alone. Both repeat every setting for each seed.",
  ),
  Flag(
    "select",
    "none",
    choice("axis", [name for name in grid.AXES if name != "seed"], none="none"),
    "Axis whose best value is chosen for every setting of the other axes, by the held-out loss of "
    "runs with the seeds of --select_seed. Only the chosen values are trained with the seeds of "
    "--seed. none to train all values.",
  ),
  Flag(
    "select_seed",
    "1000..1002",
    several("select_seed", integer("select_seed", minimum=0)),
    "Seeds of the runs by which --select chooses, as a comma list; none of them may be in --seed.",
    "list",
  ),
  Flag(
    "corpus",
    STANDARD_LIBRARY,
    str,
    f"Text for --task=charlm: path of a file, or {STANDARD_LIBRARY} for the source of Python's "
    "standard library.",
  ),
  Flag(
    "data_file",
    "none",
    lambda text: None if text == "none" else text,
    "Data for --task=data_file: path of an .npz file of arrays, as numpy.savez writes it, or none.",
  ),
  cell_options.MATCH_PARAMS,
)

_MEASURES = (
  Flag(
    "log_every",
    "20",
    integer("log_every"),
    "Optimization steps between records of the gradient norm at each time step. The first and the "
    "last step are always recorded.",
  ),
  Flag(
    "measures",
    "lag",
    subset("measure", MEASURES, plugins.IMPORT_HINT),
    "Measures to compute in addition to the gradient norms, as a comma list, or none: "
    f"{', '.join(MEASURES)}. --list_measures prints a table of them.",
    "list",
  ),
  Flag(
    "measure_every",
    "as_logged",
    integer("measure_every", none="as_logged"),
    "Optimization steps between measurements, or as_logged to measure where norms are recorded. "
    "The first and the last step are always measured.",
  ),
  Flag(
    "evaluate_every",
    "at_end",
    integer("evaluate_every", none="at_end"),
    "Optimization steps between evaluations on held-out data, of the loss and, for tasks with "
    "classes, the accuracy; or at_end to evaluate at the last step alone. The last step is always "
    "evaluated.",
  ),
  Flag(
    "test_sequence_length",
    "none",
    lengths("test_sequence_length", none="none"),
    "Sequence lengths at which the held-out loss is evaluated in addition, as a comma list of "
    "integers and of multiples of the run's own length, such as 2T,4T, or none.",
    "list",
  ),
)

_OUTPUT = (
  Flag(
    "output_dir",
    "results/sweep",
    str,
    "Folder for records and figures. The same command resumes an interrupted sweep; with more "
    "values or seeds it trains only the runs that the folder lacks.",
  ),
  Flag(
    "checkpoint_every",
    "1000",
    integer("checkpoint_every"),
    "Optimization steps between checkpoints, from which an interrupted sweep resumes; rounded up "
    "to a multiple of 50.",
  ),
  tracker_flags.TRACKER,
  Flag("retry_failed", "false", None, "Train failed runs again."),
  Flag(
    "keep_stale",
    "false",
    None,
    "Keep records and checkpoints made by different code; by default, those runs start again.",
  ),
  Flag(
    "overwrite",
    "false",
    None,
    "Replace the sweep in the output folder if its shared settings, such as the text, differ from "
    "this sweep's. If they agree, its records are kept.",
  ),
)

_DEVICES = (
  Flag(
    "devices",
    "all",
    integer("devices", none="all"),
    "Number of devices to use, of all processes together, or all. Each CPU core is a device.",
  ),
  Flag(
    "data_parallel",
    "1",
    integer("data_parallel"),
    "Number of devices that share each run's batch. It must divide the batch size and the number "
    "of devices in use; with several processes it must equal the number of devices in use.",
  ),
  Flag(
    "runs_per_device",
    "auto",
    integer("runs_per_device", none="auto"),
    "Maximum number of runs that a device trains at once, vectorized, or auto: 1 on CPU, "
    f"{RUNS_PER_ACCELERATOR} on other devices.",
  ),
  Flag(
    "remat",
    "none",
    choice("remat", ("none", "sqrt")),
    "What the backward pass recomputes instead of storing it: none, nothing; sqrt, blocks of √T of "
    "the T time steps. sqrt saves memory if sequences are long, and changes records by rounding.",
  ),
  Flag(
    "compilation_cache",
    "auto",
    str,
    "Folder that keeps compiled programs for later sweeps; auto for rnn_jax in the user's cache "
    "folder, or none.",
  ),
)

_COMMANDS = (
  Flag(
    "dry_run",
    "false",
    None,
    "Print the runs, their groups and the number of compilations, then exit. Nothing is written.",
  ),
  cell_options.LIST_CELLS,
  Flag("list_measures", "false", None, "Print a table of the measures, then exit."),
  Flag("list_flags", "false", None, "Print a table of these flags, then exit."),
)

TABLE = (
  *grouped("Axes of the sweep, each a comma list of values or a range such as 0..9", _AXES),
  *grouped("Design, text and size", _TRAINING),
  *grouped("Measures and records", _MEASURES),
  *grouped("Output", _OUTPUT),
  *grouped("Devices", _DEVICES),
  *grouped("Engines and shards", engine_flags.TABLE),
  *grouped("Several hosts", engine_flags.PROCESSES),
  *plugins.TABLE,
  *grouped("Other commands", _COMMANDS),
)


def define() -> None:
  """Defines the flags of the sweep command."""
  flag_table.define(TABLE)


def as_flagfile(configuration: Mapping[str, Any], inputs: Mapping[str, str | None]) -> str:
  """Returns the text of a flagfile that reproduces a sweep, with one flag per line.

  Args:
    configuration: the sweep's configuration.
    inputs: flags that name input files, such as {"corpus": PATH}. They replace the entries of the
      configuration, which identify the files by their contents.
  """
  lines = []
  for name, value in {**configuration, **inputs}.items():
    none = "full" if name == "truncation" else "none"
    if name == "cell_option":
      lines += [f"--cell_option={option}" for option in value]
    elif isinstance(value, list):
      if name != "hidden_size" or configuration["match_params"] is None:
        texts = (none if item is None else cell_options.value_text(item) for item in value)
        lines.append(f"--{name}={','.join(texts)}")
    elif name != "corpus_sha256" and value is not None:
      lines.append(f"--{name}={value or 'none'}")
  return "".join(line + "\n" for line in lines)
