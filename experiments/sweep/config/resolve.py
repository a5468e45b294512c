"""Resolves the values of the sweep's flags to a `Sweep`, and checks them against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from experiments.cli import command_line, flag_table, paths, plugins
from experiments.networks import cell_options
from experiments.networks.matched_width import task_input_size
from experiments.runtime import backend
from experiments.sweep.config import engine_flags, grid, networks
from experiments.sweep.config import flags as sweep_flags
from experiments.sweep.config.device_layout import RUNS_PER_ACCELERATOR, Layout
from experiments.sweep.config.groups import by_group
from experiments.sweep.config.run_tasks import Key, RunTasks, key_of
from experiments.sweep.config.runs import CORPUS_FILE, DATA_TASK, TEXT_TASK, Run, Settings, run_id
from experiments.sweep.config.sweep import SELECTION, Sweep
from experiments.sweep.measures.table import MEASURES
from rnn_jax import checks
from rnn_jax.estimators import make_estimator
from rnn_jax.tasks import TASKS, DataFile, Task, load_data_file
from rnn_jax.text import STANDARD_LIBRARY, Corpus, load_corpus
from rnn_jax.types import Array, Cell, Params, floats_of, with_floats

Values = Mapping[str, Any]  # {flag: its parsed value}


def resolve(given: Values, *, selecting: bool = False) -> Sweep:
  """Returns the sweep that these flags describe, after all checks that need no compilation.

  The output folder is neither read nor written.

  Args:
    given: values of the flags that are given; the others have their defaults.
    selecting: whether to return the first stage of a sweep with `--select`, whose runs choose the
      values that the second stage trains; see `experiments.sweep.selection`.
  Raises:
    ValueError, TypeError: if a flag is invalid or contradicts another one; the message names it.
  """
  values = {**flag_table.defaults(sweep_flags.TABLE), **given}
  corpus, corpus_name = _corpus(values)
  data = _data_file(values)
  settings = _settings(values, corpus_name, data)
  axes: dict[str, Any] = {name: values[name] for name in grid.AXES}
  cell_options.check_width(settings.match_params, "hidden_size" in given)
  if settings.match_params is not None:
    axes["hidden_size"] = (None,)
  folder = paths.folder("--output_dir", values["output_dir"])
  select = values["select"]
  if select is not None:
    _check_select(values)
  if selecting:
    axes["seed"], folder = values["select_seed"], folder / SELECTION
  decomposes = (
    "lyapunov" in settings.measure_names
    or "fptt" in axes["gradient"]
    or any(values["flossing"])
    or any(values["flossing_steps"])
  )
  if decomposes or (values["runs_per_device"] or 1) > 1:
    backend.add_spare_threads()  # batched LAPACK calls may deadlock without them
  layout = _layout(values)
  options = values["cell_option"]
  by_cell = cell_options.by_cell(options, axes["cell"], grid.AXES)
  crossed = ["seed", *([] if select is None else [select])]
  runs, no_effect = grid.expand(axes, by_cell, values["design"], crossed)
  tasks = _run_tasks(runs, settings, {TEXT_TASK: {"corpus": corpus}, DATA_TASK: {"data": data}})
  if data is not None:
    _check_shares(tasks, layout)
  runs_at_once = max(layout.runs_at_once(len(group)) for group in by_group(runs).values())
  runs, cells = networks.networks(runs, settings, tasks, runs_at_once)
  _check_measures(settings, cells, axes["cell"])
  _check_gradients(runs, tasks)
  sha256 = corpus.sha256 if corpus else None
  return Sweep(
    settings,
    axes,
    options,
    values["design"],
    {run_id(run, settings, sha256): run for run in runs},
    no_effect,
    corpus,
    tasks,
    layout,
    folder,
    values["checkpoint_every"],
    engine_flags.shard(values),
    values["keep_stale"],
    values["remat"],
    select,
    values["select_seed"],
    engine=values["engine"],
    overwrite=values["overwrite"],
    retry_failed=values["retry_failed"],
    tracker=values["tracker"],
    imports=plugins.names_of(values["import"])
    or plugins.used(axes["cell"], axes["task"], settings.measure_names),
    data_file=data,
  )


def _check_select(values: Values) -> None:
  """Checks that `--select` has values to choose from, and seeds of its own."""
  name = values["select"]
  if len(values[name]) < 2:
    raise ValueError(f"--select={name} needs several values of --{name}, got one.")
  both = sorted({*values["select_seed"]} & {*values["seed"]})
  if both:
    raise ValueError(
      "--select_seed must not hold a seed of --seed, since runs that choose a value would flatter "
      f"its results, got {', '.join(map(str, both))} in both."
    )
  if values["num_shards"] is not None:
    raise ValueError(
      "--select must not be given with --num_shards, since the chosen values depend on all runs; "
      "use --engine=ray or --engine=slurm to train on several machines."
    )


def _run_tasks(
  runs: Iterable[Run], settings: Settings, inputs: Mapping[str, Mapping[str, Any]]
) -> dict[Key, RunTasks]:
  """Returns {key of a run: its tasks}; equal tasks are built once.

  Args:
    runs: the runs.
    settings: settings of the sweep.
    inputs: {task: its arguments other than sequence length and batch size}.
  Raises:
    ValueError: if a task rejects its sequence length or batch size; the message names the flag.
  """
  built: dict[Key, Task] = {}

  def task(name: str, length: int, batch_size: int) -> Task:
    key = name, length, batch_size
    if key not in built:
      made = TASKS[name](length, batch_size, **inputs.get(name, {}))
      built[key] = checks.instance(f"what task {name} returns", made, Task)
    return built[key]

  found = {}
  for key, run in {key_of(run): run for run in runs}.items():
    with command_line.errors_name_flags():
      train = task(*key)
    try:
      lengths = settings.test_lengths(run)
      tests = {n: task(run.task, n, run.batch_size) for n in lengths}
      for test in tests.values():  # the held-out data may be too few for long sequences
        jax.eval_shape(test.batch, train.held_out, jax.random.key(0))
      found[key] = RunTasks(train, tests)
    except ValueError as error:
      raise ValueError(
        f"--test_sequence_length={settings.test_sequence_length} does not fit {run.task}: {error}"
      ) from None
  return found


def _corpus(values: Values) -> tuple[Corpus | None, str]:
  """Returns (the task's text, its name in the records: `stdlib` or `file`).

  The text is None if no task reads it.
  """
  path = values["corpus"]
  if TEXT_TASK not in values["task"]:
    if path != STANDARD_LIBRARY:
      raise ValueError(
        f"--corpus is for task {TEXT_TASK}, got {path} with {','.join(values['task'])}."
      )
    return None, STANDARD_LIBRARY
  name = STANDARD_LIBRARY
  if path != STANDARD_LIBRARY:
    name, path = CORPUS_FILE, paths.recorded_path("--corpus", path)
  with command_line.errors_name_flags():
    return load_corpus(path), name


def _data_file(values: Values) -> DataFile | None:
  """Returns the data of `--data_file`; None if no task reads it."""
  path = values["data_file"]
  if DATA_TASK not in values["task"]:
    if path is not None:
      raise ValueError(
        f"--data_file is for task {DATA_TASK}, got {path} with {','.join(values['task'])}."
      )
    return None
  if path is None:
    raise ValueError(f"--task={DATA_TASK} needs --data_file=FILE.npz, got none.")
  with command_line.errors_name_flags():
    return load_data_file(paths.recorded_path("data_file", path))


def _check_shares(tasks: Mapping[Key, RunTasks], layout: Layout) -> None:
  """Checks that devices that share a batch can share a held-out batch of the data file, too."""
  for (name, *_), own in tasks.items():
    if name == DATA_TASK:
      batch = jax.eval_shape(own.train.batch, own.train.held_out, jax.random.key(0))
      size = batch.mask.shape[1]
      if size % layout.data_parallel:
        raise ValueError(
          f"--data_parallel must divide the {size} held-out sequences of a batch, got "
          f"{layout.data_parallel}."
        )


def _settings(values: Values, corpus_name: str, data: DataFile | None) -> Settings:
  given: dict[str, Any] = {f.name: values[f.name] for f in dataclasses.fields(Settings)}
  given["corpus"] = corpus_name
  given["data_file"] = data and f"sha256:{data.sha256}"
  given["measure_every"] = values["measure_every"] or values["log_every"]
  return Settings(**given)


def _layout(values: Values) -> Layout:
  processes, data_parallel = jax.process_count(), values["data_parallel"]
  devices = engine_flags.devices(values)
  count = values["devices"] or len(devices)
  if count > len(devices):
    kind = "CPU cores" if devices[0].platform == "cpu" else f"{devices[0].platform} devices"
    where = "of this machine" if processes == 1 else f"of {processes} processes"
    if values["engine"] != "local":
      kind, where = "devices", "of a task"
    raise ValueError(f"--devices must be at most the {len(devices)} {kind} {where}, got {count}.")
  if count % processes:
    raise ValueError(f"--devices must be a multiple of the {processes} processes, got {count}.")
  if processes > 1:
    each = count // processes
    devices = [device for i in range(processes) for device in jax.local_devices(i)[:each]]
  devices = devices[:count]
  for total, text in (
    *((size, f"--batch_size={size}") for size in values["batch_size"]),
    (count, f"the number of devices in use, {count}"),
  ):
    if total % data_parallel:
      raise ValueError(f"--data_parallel must divide {text}, got {data_parallel}.")
  if processes > 1 and data_parallel != count:
    raise ValueError(
      f"--data_parallel must be the number of devices in use, {count}, with several "
      f"processes, got {data_parallel}."
    )
  default = 1 if devices[0].platform == "cpu" else RUNS_PER_ACCELERATOR
  return Layout(devices, data_parallel, values["runs_per_device"] or default)


def _check_gradients(runs: Sequence[Run], tasks: Mapping[Key, RunTasks]) -> None:
  """Checks that each run's gradient estimator supports its network and its clipping."""
  for alike in by_group(runs).values():
    run = alike[0]
    if not make_estimator(run.gradient).forward:
      continue
    if run.clip_by == "carry" and run.clip_norm is not None:
      raise ValueError(
        "--clip_by must not be carry with a forward gradient estimator, since it has no dL/dh_t, "
        f"got --gradient={run.gradient}."
      )
    size = task_input_size(tasks[key_of(run)].train)
    for cell in networks.make_cells(run):
      try:
        _trace_estimator(cell, size, run.gradient)
      except ValueError as error:
        raise ValueError(
          f"--gradient={run.gradient} does not support {run.network}: {error}"
        ) from None
      size = run.width


def _trace_estimator(cell: Cell, input_size: int, gradient: str) -> None:
  """Traces an estimator for one cell; raises ValueError if it does not support the cell."""

  def estimate(key: Array) -> PyTree:
    params = cell.init(key, input_size)
    xs = jnp.zeros((2, 1, input_size))

    def loss(floats: Params) -> Array:
      own = with_floats(floats, params)
      _, ys = make_estimator(gradient).unroll(cell, own, xs, estimator_key=key, key=key)
      return jnp.sum(ys)

    return jax.grad(loss)(floats_of(params))

  jax.eval_shape(estimate, jax.random.key(0))


def _check_measures(settings: Settings, cells: Sequence[Cell], names: Sequence[str]) -> None:
  """Checks that at least one cell of the sweep supports each of the selected measures."""
  for name in settings.measure_names:
    measure = MEASURES[name]
    if not any(map(measure.fits, cells)):
      raise ValueError(
        f"--measures must not hold {name}, since no selected cell has {measure.needs}, got "
        f"{','.join(names)}."
      )
