"""Workers: the processes that an engine starts, each of which trains the runs of one group.

A group consists of the runs that share a compiled program. The driver is the process that the user
started. A worker resolves the sweep from the driver's flags, and writes records and checkpoints on
its own machine, under the path of the driver's output folder. If the machines share this folder, a
worker that replaces a dead one resumes from the dead one's checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from absl import flags

from experiments.cli import flag_table, plugins
from experiments.runtime import backend, compilation_cache
from experiments.sweep.config import flags as sweep_flags
from experiments.sweep.config.groups import by_group
from experiments.sweep.config.resolve import resolve
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import locking, origins, run_files, sweep_folder
from experiments.sweep.training.train import OnProgress, Stopped, train_runs
from rnn_jax.checkpoints import difference

# Flags that the driver passes to its workers in addition to those that reproduce the sweep.
_PASSED_ON = (
  "devices",
  "data_parallel",
  "runs_per_device",
  "remat",
  "compilation_cache",
  "checkpoint_every",
  "keep_stale",
)


class WorkerJob(NamedTuple):
  """A worker's task, as plain data that can be sent to it.

  Attributes:
    flags: flags of the sweep, as on a command line.
    configuration: the driver's configuration, which the worker's configuration must equal.
    ids: ids of the runs to train, all of one group.
    group: ids of all runs of this group, which the worker locks.
    every: ids of all runs of the sweep.
    path: folders in which the driver finds modules; the worker searches them last.
    cpus, gpus: number of CPU cores and of GPUs that the worker has.
  """

  flags: list[str]
  configuration: dict[str, object]
  ids: list[str]
  group: list[str]
  every: list[str]
  path: list[str]
  cpus: int
  gpus: int


def jobs(sweep: Sweep, ids: Sequence[str]) -> list[WorkerJob]:
  """Returns the jobs that train the runs `ids`: one for each group that contains any of them."""
  values = flags.FLAGS
  text = sweep_flags.as_flagfile(sweep.configuration, sweep.input_flags)
  lines = text.removesuffix("\n").split("\n")
  lines.append(f"--output_dir={sweep.folder.absolute()}")
  lines += [
    f"--{name}={values[name].value}" for name in _PASSED_ON if values[name].value is not None
  ]
  wanted = set(ids)
  found = []
  for runs in by_group(sweep.ids.values()).values():
    group = [sweep.names[run] for run in runs]
    own = [name for name in group if name in wanted]
    if own:
      resources = values.cpus_per_task, values.gpus_per_task
      path = plugins.search_path() if sweep.imports else []
      about = sweep.configuration, own, group, list(sweep.ids), path
      found.append(WorkerJob(lines, *about, *resources))
  return found


def train(job: WorkerJob, stop: Callable[[], bool]) -> Sweep:
  """Trains a job's runs in this worker process, until they are done or `stop` returns True.

  Must be called before the process uses JAX, because it configures JAX.

  Returns:
    The sweep as resolved in the worker.
  Raises:
    ValueError: if the flags resolve to a different sweep from the driver's, or another process is
      training these runs.
    OSError: if the folder cannot be read or written.
  """
  backend.configure(job.cpus)
  if not job.gpus:
    jax.config.update("jax_platforms", "cpu")
  sweep = _resolve(job)
  sweep_folder.check_folder(sweep.folder, sweep.configuration, overwrite=False, extend=False)
  compilation_cache.use(flags.FLAGS.compilation_cache)
  with locking.runs_lock(sweep, job.group, worker=True):
    locking.prepare_shared(sweep)
    states = run_files.statuses(sweep.folder, job.ids)
    done = {name for name, state in states.items() if state.get("status") in run_files.DONE}
    left = [name for name in job.ids if name not in done - origins.stale(sweep, states)]
    with contextlib.suppress(Stopped):
      train_runs(sweep, left, stop, lambda *_: None)
  return sweep


def _resolve(job: WorkerJob) -> Sweep:
  sweep_flags.define()
  sys.path += [folder for folder in job.path if folder not in sys.path]
  try:
    plugins.import_from(job.flags)
  except ValueError as error:
    where = f" (the driver finds modules in {', '.join(job.path)})" if job.path else ""
    raise ValueError(f"On the worker {socket.gethostname()}: {error}{where}") from None
  try:
    flags.FLAGS(["worker", *job.flags])
    sweep = resolve(flag_table.given(sweep_flags.TABLE))
    # The driver may train only the chosen values of an axis; see `selection`.
    sweep = dataclasses.replace(sweep, ids={name: sweep.ids[name] for name in job.every})
  except (flags.Error, TypeError) as error:
    raise ValueError(str(error)) from None
  found = difference(sweep.configuration, job.configuration)
  if found is not None:
    raise ValueError(f"A worker must resolve the same sweep as its driver, but its {found}.")
  return sweep


def missing_runs(sweep: Sweep, ids: Sequence[str]) -> list[str]:
  """Returns those of `ids` whose runs the sweep's folder records neither as done nor as failed."""
  states = run_files.statuses(sweep.folder, ids)
  ended = {name: s for name, s in states.items() if s.get("status") in run_files.ENDED}
  return [name for name in ids if name not in ended.keys() - origins.stale(sweep, ended)]


def all_done(sweep: Sweep, ids: Sequence[str]) -> bool:
  """Returns whether all of these runs are done in the sweep's folder, with no record stale."""
  # Check the last run first: it is the most likely to be unfinished, which ends the check early.
  for name in reversed(ids):
    state = run_files.status(sweep.folder, name)
    if state.get("status") not in run_files.DONE or origins.stale(sweep, {name: state}):
      return False
  return True


class Poller:
  """A callable that the driver calls regularly to report the runs that workers have completed.

  Args:
    sweep: the sweep.
    ids: ids of the runs to watch.
    on_progress: called once for each run, when its records are complete in the driver's folder.
  """

  def __init__(self, sweep: Sweep, ids: Sequence[str], on_progress: OnProgress):
    self._sweep = sweep
    self._left = list(ids)
    self._on_progress = on_progress

  def __call__(self) -> None:
    """Reports the runs that were completed since the last call."""
    states = run_files.statuses(self._sweep.folder, self._left)
    done = {name: state for name, state in states.items() if state.get("status") in run_files.DONE}
    stale = origins.stale(self._sweep, done)
    done = {name: state for name, state in done.items() if name not in stale}
    for name in done:
      self._on_progress(self._sweep.ids[name], "training", 1.0, None)
    self._left = [name for name in self._left if name not in done]
