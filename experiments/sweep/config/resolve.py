"""Resolves the flags of the sweep command to a `Sweep`, and checks them against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from experiments.cli import command_line, paths
from experiments.networks import cell_options
from experiments.sweep.config import engine_flags, grid, networks
from experiments.sweep.config.device_layout import RUNS_PER_ACCELERATOR, Layout
from experiments.sweep.config.groups import by_group
from experiments.sweep.config.run_tasks import run_tasks
from experiments.sweep.config.runs import CORPUS_FILE, TEXT_TASK, Settings, run_id
from experiments.sweep.config.sweep import SELECTION, Sweep
from experiments.sweep.measures import MEASURES
from rnn_jax.text import STANDARD_LIBRARY, Corpus, load_corpus
from rnn_jax.types import Cell


def resolve(arguments: Sequence[str], *, selecting: bool = False) -> Sweep:
  """Returns the sweep that the flags describe, after all checks that need no compilation.

  The output folder is neither read nor written.

  Args:
    arguments: command-line arguments that are not flags; must be empty.
    selecting: whether to return the first stage of a sweep with `--select`, whose runs choose the
      values that the second stage trains; see `experiments.sweep.selection`.
  Raises:
    ValueError, TypeError: if a flag is invalid or contradicts another one; the message names it.
  """
  command_line.check_no_arguments(arguments)
  values = flags.FLAGS
  corpus, corpus_name = _corpus()
  settings = _settings(corpus_name)
  axes: dict[str, Any] = {name: values[name].value for name in grid.AXES}
  axes["hidden_size"] = cell_options.fixed_width() or (None,)
  folder = paths.folder("output_dir")
  if values.select is not None:
    _check_select(axes)
  if selecting:
    axes["seed"], folder = values.select_seed, folder / SELECTION
  layout = _layout(axes["batch_size"])
  options = values.cell_option or []
  by_cell = cell_options.by_cell(options, axes["cell"], grid.AXES)
  crossed = ["seed", *([] if values.select is None else [values.select])]
  runs, no_effect = grid.expand(axes, by_cell, values.design, crossed)
  tasks = run_tasks(runs, settings, corpus)
  runs_at_once = max(layout.runs_at_once(len(group)) for group in by_group(runs).values())
  runs, cells = networks.networks(runs, settings, tasks, runs_at_once)
  _check_measures(settings, cells)
  sha256 = corpus.sha256 if corpus else None
  return Sweep(
    settings,
    axes,
    options,
    values.design,
    {run_id(run, settings, sha256): run for run in runs},
    no_effect,
    corpus,
    tasks,
    layout,
    folder,
    values.checkpoint_every,
    engine_flags.shard(),
    values.keep_stale,
    values.remat,
    values.select,
    values.select_seed,
  )


def _check_select(axes: Mapping[str, Sequence[Any]]) -> None:
  """Checks that `--select` has values to choose from, and seeds of its own."""
  values = flags.FLAGS
  name = values.select
  if len(axes[name]) < 2:
    raise ValueError(f"--select={name} needs several values of --{name}, got one.")
  both = sorted({*values.select_seed} & {*axes["seed"]})
  if both:
    raise ValueError(
      "--select_seed must not hold a seed of --seed, so that no value is judged by the runs that "
      f"chose it, got {', '.join(map(str, both))} in both."
    )
  if values.num_shards is not None:
    raise ValueError(
      "--select must not be given with --num_shards, since the chosen values depend on all runs; "
      "use --engine=ray or --engine=slurm to train on several machines."
    )


def _corpus() -> tuple[Corpus | None, str]:
  """Returns (the task's text, its name in the records: `stdlib` or `file`).

  The text is None if no task reads it.
  """
  values = flags.FLAGS
  path = values.corpus
  if TEXT_TASK not in values.task:
    if values["corpus"].present and path != STANDARD_LIBRARY:
      raise ValueError(
        f"--corpus is for task {TEXT_TASK}, got {path} with {','.join(values.task)}."
      )
    return None, STANDARD_LIBRARY
  name = STANDARD_LIBRARY
  if path != STANDARD_LIBRARY:
    name, path = CORPUS_FILE, paths.recorded_path("--corpus", path)
  with command_line.errors_name_flags():
    return load_corpus(path), name


def _settings(corpus_name: str) -> Settings:
  values = flags.FLAGS
  given: dict[str, Any] = {f.name: values[f.name].value for f in dataclasses.fields(Settings)}
  given["corpus"] = corpus_name
  given["measure_every"] = values.measure_every or values.log_every
  return Settings(**given)


def _layout(batch_sizes: Sequence[int]) -> Layout:
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
    raise ValueError(f"--devices must be a multiple of the {processes} processes, got {count}.")
  if processes > 1:
    each = count // processes
    devices = [device for i in range(processes) for device in jax.local_devices(i)[:each]]
  devices = devices[:count]
  for total, text in (
    *((size, f"--batch_size={size}") for size in batch_sizes),
    (count, f"the number of devices in use, {count}"),
  ):
    if total % values.data_parallel:
      raise ValueError(f"--data_parallel must divide {text}, got {values.data_parallel}.")
  if processes > 1 and values.data_parallel != count:
    raise ValueError(
      f"--data_parallel must be the number of devices in use, {count}, with several "
      f"processes, got {values.data_parallel}."
    )
  default = 1 if devices[0].platform == "cpu" else RUNS_PER_ACCELERATOR
  return Layout(devices, values.data_parallel, values.runs_per_device or default)


def _check_measures(settings: Settings, cells: Sequence[Cell]) -> None:
  """Checks that at least one cell of the sweep supports each of the selected measures."""
  for name in settings.measure_names:
    measure = MEASURES[name]
    if not any(map(measure.fits, cells)):
      raise ValueError(
        f"--measures must not hold {name}, since no selected cell has {measure.needs}, got "
        f"{','.join(flags.FLAGS.cell)}."
      )
