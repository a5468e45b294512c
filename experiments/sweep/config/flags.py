"""The flags of a sweep."""

from __future__ import annotations

from absl import flags

from experiments.cli import parsers
from experiments.networks import cell_options
from experiments.sweep.config import engine_flags
from experiments.sweep.config.layout import RUNS_PER_ACCELERATOR
from experiments.sweep.measures import MEASURES
from rnn_jax.cells import CELLS
from rnn_jax.tasks import TASKS
from rnn_jax.text import STANDARD_LIBRARY
from rnn_jax.training import CLIP_BY, OPTIMIZERS


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
    f"CPU, {RUNS_PER_ACCELERATOR} elsewhere.",
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
  flags.adopt_module_key_flags(parsers)  # so that --help shows them
  flags.adopt_module_key_flags(cell_options)
