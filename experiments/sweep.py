"""Sweeps cell, depth and truncation, and records how the gradient flows through time.

  python -m experiments.sweep --flagfile=experiments/flagfiles/gradient_decay.flags

Comma lists multiply. Runs that can share a compiled program do. Started again with the same output
folder, it skips the runs that have finished and goes on with the rest.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console

from experiments import (
  command_line,
  compilation_cache,
  grid,
  parsers,
  plots,
  progress,
  provenance,
  records,
)
from experiments.measures import MEASURES
from experiments.runner import Layout, Program, Record, compile_group, train_group
from rnn_jax.cells import CELLS
from rnn_jax.tasks import TASKS, Task
from rnn_jax.text import STANDARD_LIBRARY, Corpus, load_corpus
from rnn_jax.training import OPTIMIZERS

PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray")
MATMUL_PRECISION = "highest"  # TF32 would blur what is measured far below 1

# Runs of a usual size leave most of an accelerator idle. CPU cores are busy with one, and XLA:CPU
# is slow at small batched products.
_RUNS_PER_ACCELERATOR = 16

_positive = functools.partial(
  parsers.number, rule="a finite number above 0", accept=lambda v: v > 0
)


def define_flags() -> None:
  """All flags of the sweep."""
  axis, single, integer = parsers.define_axis, parsers.define, parsers.integer
  axis("cell", "elman", parsers.choice("cell", CELLS), f"Cell: {', '.join(CELLS)}.")
  axis("depth", "1", integer("depth"), "Number of recurrent layers.")
  axis(
    "truncation",
    "full",
    integer("truncation", none="full"),
    "Time steps after which backpropagation through time is cut, or full.",
    none="full",
  )
  axis("seed", "0", integer("seed", minimum=0), "Seed of parameters and data.")
  axis("learning_rate", "0.002", _positive("learning_rate"), "Learning rate of the optimizer.")
  axis(
    "clip_norm",
    "1.0",
    _positive("clip_norm", none="none"),
    "Largest global gradient norm before an update, or none for no clipping.",
  )
  axis(
    "recurrent_gain",
    "1.0",
    parsers.number("recurrent_gain", "a finite number from 0", lambda v: v >= 0),
    "Factor on the orthogonal recurrent kernels at initialisation.",
  )
  axis(
    "forget_bias",
    "1.0",
    parsers.number("forget_bias", "a finite number", lambda v: True),
    "Forget gate bias at initialisation; for cells that have one.",
  )
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
    "Devices to use; CPU cores are devices. A number, or all, the default.",
  )
  single(
    "data_parallel",
    "1",
    integer("data_parallel"),
    "Devices that share the batch of each run; must divide the batch size and the devices in use.",
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
  flags.DEFINE_boolean("overwrite", False, "Replace another sweep in the output folder.")
  flags.adopt_module_key_flags(parsers)  # so that --help shows them


def main(arguments: list[str]) -> None:
  """Runs the sweep that the flags describe."""
  console = Console()
  try:
    sweep = _resolve(arguments)
  except (ValueError, TypeError) as error:
    command_line.fail(str(error))
  if flags.FLAGS.dry_run:
    _print_plan(sweep)
    return
  compilation_cache.use(flags.FLAGS.compilation_cache)
  try:
    _run(sweep, console)
  except KeyboardInterrupt:
    ended = sum(records.has_ended(sweep.folder, name) for name in sweep.ids)
    command_line.interrupted(
      f"{ended} of {len(sweep.ids)} runs have ended, their records are in {sweep.folder}. "
      "The same command goes on from there."
    )
  except BrokenPipeError:
    raise
  except OSError as error:
    command_line.fail(f"--output_dir could not be read or written: {error}.")
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    reason = str(error).strip().split("\n")[0]
    command_line.fail(f"a run failed, its records are not complete: {reason}.")


@dataclasses.dataclass(frozen=True)
class _Sweep:
  """What the flags came to."""

  settings: grid.Settings
  axes: Mapping[str, Sequence[Any]]
  ids: Mapping[str, grid.Run]
  corpus: Corpus | None
  task: Task
  layout: Layout
  folder: Path

  @property
  def sha256(self) -> str | None:
    return self.corpus.sha256 if self.corpus else None

  @property
  def configuration(self) -> dict[str, Any]:
    """What must be equal for a sweep to go on in the same folder."""
    axes = {name: list(values) for name, values in self.axes.items()}
    return {**axes, **dataclasses.asdict(self.settings), "corpus_sha256": self.sha256}


def _resolve(arguments: list[str]) -> _Sweep:
  """Checks everything that can be checked before the first compilation."""
  if arguments:
    raise ValueError(f"Arguments must be flags, --name=value, got '{arguments[0]}'.")
  values = flags.FLAGS
  if values.task == "charlm":
    path = values.corpus
    if path != STANDARD_LIBRARY:
      path = str(command_line.path("corpus", path).absolute())
    corpus = _named(load_corpus, path)
  else:
    if values["corpus"].present and values.corpus != STANDARD_LIBRARY:
      raise ValueError(f"--corpus is for task charlm, got {values.corpus} with {values.task}.")
    corpus, path = None, STANDARD_LIBRARY
  given: dict[str, Any] = {f.name: values[f.name].value for f in dataclasses.fields(grid.Settings)}
  measure_every = values.measure_every or values.log_every
  settings = grid.Settings(**{**given, "corpus": path, "measure_every": measure_every})
  options = {} if corpus is None else {"corpus": corpus}
  task = _named(TASKS[settings.task], settings.sequence_length, settings.batch_size, **options)
  devices = jax.local_devices()
  if values.devices is not None and values.devices > len(devices):
    kind = "CPU cores" if devices[0].platform == "cpu" else f"{devices[0].platform} devices"
    raise ValueError(
      f"--devices must be at most the {len(devices)} {kind} of this machine, got {values.devices}."
    )
  devices = devices[: values.devices]
  for whole, text in (
    (settings.batch_size, f"--batch_size={settings.batch_size}"),
    (len(devices), f"the number of devices in use, {len(devices)}"),
  ):
    if whole % values.data_parallel:
      raise ValueError(f"--data_parallel must divide {text}, got {values.data_parallel}.")
  runs_per_device = values.runs_per_device
  if runs_per_device is None:
    runs_per_device = 1 if devices[0].platform == "cpu" else _RUNS_PER_ACCELERATOR
  length = settings.sequence_length
  reach = [length if k is None else min(k, length) for k in values.truncation]
  if len(set(reach)) < len(reach):
    raise ValueError(
      f"--truncation must not hold a value twice; at --sequence_length={length} all from {length} "
      "on are full."
    )
  axes: dict[str, Any] = {name: values[name].value for name in grid.AXES}
  sha256 = corpus.sha256 if corpus else None
  ids = {grid.run_id(run, settings, sha256): run for run in grid.expand(axes)}
  _check_memory(settings, max(values.depth), min(values.runs_per_device or 1, len(ids)))
  folder = command_line.path("output_dir", values.output_dir)
  layout = Layout(devices, values.data_parallel, runs_per_device)
  sweep = _Sweep(settings, axes, ids, corpus, task, layout, folder)
  if not values.output_dir:
    raise ValueError("--output_dir must name a folder, got ''.")
  records.check_folder(folder, sweep.configuration, values.overwrite)
  return sweep


def _check_memory(settings: grid.Settings, depth: int, together: int) -> None:
  """Refuses sizes at which the least that a device's runs must hold would not fit into memory."""
  params = depth * settings.hidden_size**2
  carries = depth * settings.sequence_length * settings.batch_size * settings.hidden_size
  needed = 4 * (params + carries) * together
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if needed > memory:
    raise ValueError(
      "--hidden_size, --sequence_length, --batch_size and --depth must fit into this machine's "
      f"{memory / 2**30:.0f} GiB; {'a run needs' if together == 1 else f'{together} runs need'} "
      f"{needed / 2**30:.0f} GiB at least."
    )


def _named(function: Any, *args: Any, **kwargs: Any) -> Any:
  """Calls a function whose errors begin with the name of a flag."""
  try:
    return function(*args, **kwargs)
  except (TypeError, ValueError) as error:
    raise ValueError(f"--{error}") from None


def _print_plan(sweep: _Sweep) -> None:
  groups = grid.groups(sweep.ids.values())
  names = {run: name for name, run in sweep.ids.items()}
  for (cell, depth), runs in groups.items():
    print(f"{cell}, depth {depth}: one compilation, {len(runs)} runs")
    for run in runs:
      print(f"  {names[run]}")
  print(
    f"{len(sweep.ids)} runs, {len(groups)} groups, {len(groups)} compilations, "
    f"{len(sweep.layout.devices)} devices; nothing was written."
  )


def _run(sweep: _Sweep, console: Console) -> None:
  folder, settings = sweep.folder, sweep.settings
  lines = grid.flagfile(settings, sweep.axes)
  records.prepare_folder(folder, sweep.configuration, _about(sweep), lines, flags.FLAGS.overwrite)
  names = {run: name for name, run in sweep.ids.items()}
  # How much of each run is done, from 0 to 1.
  done = {run: float(records.has_ended(folder, name)) for run, name in names.items()}
  ended = int(sum(done.values()))
  if ended:
    print(f"{ended} of {len(names)} runs have ended before and are kept.")

  interrupted = _note_interrupts()
  with progress.show(len(names), ended, console) as report:

    def on_records(run: grid.Run, step: int, part: Record) -> None:
      if interrupted.is_set():
        raise KeyboardInterrupt
      if step == 0:
        records.start_run(folder, names[run], grid.config(run, settings, sweep.sha256))
      records.append_metrics(folder, names[run], step, part)
      done[run] = (step + len(part.loss)) / (settings.steps + 1)
      report(f"{run.cell}, depth {run.depth}", sum(done.values()), float(part.loss[-1]))

    groups = grid.groups(run for run in done if done[run] < 1)
    programs = _programs(list(groups.values()), sweep)
    for (cell, depth), runs in groups.items():
      report(f"{cell}, depth {depth}: compiling", sum(done.values()), None)
      program = next(programs)
      for result in train_group(program, runs, settings, sweep.task, sweep.layout, on_records):
        records.end_run(folder, names[result.run], result, settings)
        done[result.run] = 1.0
  gradients, metrics = records.write_results(folder, sweep.ids)
  pictures = plots.save_all(gradients, metrics, folder / "figures")
  diverged = [name for name in sweep.ids if records.status(folder, name)["status"] == "diverged"]
  for name in diverged:
    print(f"diverged at step {records.status(folder, name)['diverged_step']}: {name}")
  print(f"{len(names)} runs have ended, {len(diverged)} of them diverged.")
  print(f"Records are in {folder}, pictures in {folder / 'figures'}:")
  print(f"  begin with {pictures[0]}")


def _programs(groups: Sequence[Sequence[grid.Run]], sweep: _Sweep) -> Iterator[Program]:
  """The program of each group; while one is in use, a thread compiles the next."""
  # Not closed at the end, as Ctrl-C and errors should not wait for a compilation.
  thread = ThreadPoolExecutor(1)

  def compiled(runs: Sequence[grid.Run]) -> Future[Program]:
    return thread.submit(compile_group, runs, sweep.settings, sweep.task, sweep.layout)

  ahead = compiled(groups[0])
  for following in groups[1:]:
    program, ahead = ahead.result(), compiled(following)
    yield program
  yield ahead.result()


def _note_interrupts() -> threading.Event:
  """An event beside the exception of Ctrl-C, which is lost if it comes inside a callback of jax."""
  happened = threading.Event()

  def handle(*_: Any) -> None:
    happened.set()
    raise KeyboardInterrupt

  signal.signal(signal.SIGINT, handle)
  return happened


def _about(sweep: _Sweep) -> dict[str, Any]:
  """What else a reader of the records must know."""
  corpus = sweep.corpus
  return {
    "runs": list(sweep.ids),
    "task": {"loss_unit": sweep.task.unit, "baseline": sweep.task.baseline},
    "corpus": corpus
    and {
      "name": corpus.name,
      "sha256": corpus.sha256,
      "characters": len(corpus.tokens),
      "vocabulary_size": corpus.vocabulary.size,
    },
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": provenance.versions(PACKAGES),
    "devices": [str(device) for device in sweep.layout.devices],
    "data_parallel": sweep.layout.data_parallel,
    "runs_per_device": sweep.layout.runs_per_device,
    "matmul_precision": MATMUL_PRECISION,
    "git": provenance.git(),
  }


def configure_jax() -> None:
  """CPU cores become devices of one thread each, and products keep full precision everywhere."""
  os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
  jax.config.update("jax_num_cpu_devices", len(provenance.cores()))
  jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION)


if __name__ == "__main__":
  configure_jax()
  define_flags()
  command_line.run(main)
