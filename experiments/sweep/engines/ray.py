"""Trains a sweep on Ray: one task for each group, in a fresh process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments.runtime import provenance
from experiments.runtime.signals import Stop
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.engines import worker
from experiments.sweep.engines.worker import WorkerJob
from experiments.sweep.records import locking, run_files, sweep_folder
from experiments.sweep.training.train import OnProgress, Stopped

# How often a task whose worker died is retried. A retry resumes from checkpoints if its folder is
# on a file system that the workers share. Limited because the task itself may kill its worker.
RETRIES = 10
_POLL_SECONDS = 2.0


def train_runs(
  sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], on_progress: OnProgress
) -> None:
  """Trains runs of a sweep; arguments and errors as in `training.train.train_runs`."""
  import ray  # an optional dependency

  jobs = worker.jobs(sweep, ids)
  if not jobs:
    return
  poll = worker.Poller(sweep, ids, on_progress)
  with _connected(ray):
    waiting = {_submit(ray, job): job for job in jobs}
    cancelled = False
    while waiting:
      done, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
      for task in done:
        _gather(ray, sweep, task, waiting.pop(task))
      poll()
      if stop() and not cancelled:
        cancelled = True
        for task in waiting:
          ray.cancel(task)  # raises SIGINT in the worker
  if stop():
    raise Stopped
  for name in worker.missing_runs(sweep, ids):
    run_files.fail(sweep, sweep.ids[name], "worker", RuntimeError("its Ray task was cancelled"))


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[None]:
  """Connects to the cluster that the flags name, or starts one on this machine."""
  address = flags.FLAGS.ray_address
  # Send no usage statistics, and do not retry a task that runs out of memory forever.
  os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}
  here = {"num_cpus": len(provenance.cores()), "include_dashboard": False}
  before = signal.getsignal(signal.SIGTERM)
  try:
    if ":" in address:  # without an answer there, Ray would keep trying for minutes
      host, port = address.rsplit(":", 1)
      socket.create_connection((host, int(port)), timeout=10).close()
    with warnings.catch_warnings():
      # jax warns of forks. Ray's child processes call exec right away, so they are safe.
      warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
      ray.init(
        address, log_to_driver=False, logging_level="ERROR", **here if address == "local" else {}
      )
  except (OSError, RuntimeError) as error:
    reason = str(error).strip().split("\n")[0]
    raise ValueError(
      f"--ray_address must be the address of a running cluster, got {address} ({reason})."
    ) from None
  signal.signal(signal.SIGTERM, before)  # Ray's handler would end this process
  try:
    if address == "local":
      _check_resources(ray.cluster_resources())
    yield
  finally:
    ray.shutdown()


def _check_resources(available: dict[str, float]) -> None:
  """Refuses tasks that a cluster of one machine could never start."""
  for name, kind, unit in (("cpus", "CPU", 1), ("gpus", "GPU", 1), ("memory", "memory", 2**30)):
    most, wanted = available.get(kind, 0.0) / unit, flags.FLAGS[f"{name}_per_task"].value or 0
    if wanted > most:
      raise ValueError(
        f"--{name}_per_task must be at most what this machine has, {most:g}, got {wanted}."
      )


def _resources() -> dict[str, int]:
  """Returns the resources of a task, by the names of `ray.remote`."""
  values = flags.FLAGS
  memory = {} if values.memory_per_task is None else {"memory": values.memory_per_task * 2**30}
  return {"num_cpus": values.cpus_per_task, "num_gpus": values.gpus_per_task, **memory}


def _submit(ray: Any, job: WorkerJob) -> Any:
  # One call in each process: jax can be configured only once, and if a process is killed, it is
  # the one that computes. An exception is not retried, since it would be raised again.
  how = {"max_calls": 1, "max_retries": RETRIES, "retry_exceptions": False}
  return ray.remote(**how, **_resources())(_train).remote(job)


def _train(job: WorkerJob) -> tuple[dict[str, object], dict[str, dict[str, bytes]]]:
  """Trains a job as a Ray task; returns its environment and the files of its completed runs."""
  stop = Stop()
  signal.signal(signal.SIGINT, lambda number, _: setattr(stop, "number", number))
  sweep = worker.train(job, stop)
  missing = worker.missing_runs(sweep, job.ids)
  completed = [name for name in job.ids if name not in missing]
  return locking.about(sweep), {name: run_files.read_all(sweep.folder, name) for name in completed}


def _gather(ray: Any, sweep: Sweep, task: Any, job: WorkerJob) -> None:
  """Writes the files that a task returned into the driver's folder, unless they are there."""
  try:
    about, runs = ray.get(task)
  except ray.exceptions.TaskCancelledError:
    return
  except ray.exceptions.RayTaskError as error:
    raise error.cause from None
  except ray.exceptions.RayError as error:  # the task's workers died more than RETRIES times
    for name in worker.missing_runs(sweep, job.ids):
      run_files.fail(sweep, sweep.ids[name], "worker", error)
    return
  sweep_folder.note_environment(sweep.folder, about)
  for name, contents in runs.items():
    if not run_files.is_done(sweep.folder, name):
      run_files.write_all(sweep.folder, name, contents)
