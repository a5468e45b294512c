"""The table of the sweep command's flags, and their text in a flagfile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.cli import flag_table, plugins
from experiments.cli.flag_table import Flag, grouped
from experiments.cli.parsers import (
  choice,
  integer,
  lengths,
  several,
  subset,
)
from experiments.networks import cell_options
from experiments.sweep.config import axis_flags, engine_flags, grid, tracker_flags
from experiments.sweep.config.device_layout import RUNS_PER_ACCELERATOR
from experiments.sweep.config.grid import DESIGNS
from experiments.sweep.measures.table import MEASURES
from rnn_jax.text import STANDARD_LIBRARY

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
  *grouped(
    "Axes of the sweep, each a comma list of values or a range such as 0..9", axis_flags.TABLE
  ),
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
