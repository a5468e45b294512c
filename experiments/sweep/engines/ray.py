"""The Ray engine: trains each group of a sweep's runs as one Ray task, in a fresh process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
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

# The maximum number of times that a task is retried after its worker died. It is limited because
# the task itself may be what kills its workers. A retry resumes from checkpoints if the workers
# share the file system of the output folder.
RETRIES = 10
_POLL_SECONDS = 2.0
# The driver leaves when the cluster's head has not answered for this long. Ray itself ends the
# process after 60 seconds, without a message for the user.
_HEAD_SECONDS = 30.0
# A task whose runs are all done in the driver's folder is not waited for any longer than this,
# because its machine may be frozen.
_RESULT_SECONDS = 30.0


def train_runs(
  sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], on_progress: OnProgress
) -> None:
  """Trains runs of a sweep; arguments and errors are those of `training.train.train_runs`."""
  import ray  # imported here because it is an optional dependency

  jobs = worker.jobs(sweep, ids)
  if not jobs:
    return
  poll = worker.Poller(sweep, ids, on_progress)
  with _connected(ray) as head:
    answered = time.monotonic()
    done_since: dict[Any, float] = {}
    waiting = {_submit(ray, job): job for job in jobs}
    cancelled = False
    while waiting:
      done, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
      for task in done:
        _gather(ray, sweep, task, waiting.pop(task))
      poll()
      now = time.monotonic()
      if _answers(head):
        answered = now
      elif now - answered > _HEAD_SECONDS:
        raise ValueError(
          f"The head of the Ray cluster, {head}, no longer responds. Run the same command again on "
          "a running cluster to resume."
        )
      for task, job in list(waiting.items()):
        if not worker.all_done(sweep, job.ids):
          continue
        if now - done_since.setdefault(task, now) > _RESULT_SECONDS:
          del waiting[task]
      if stop() and not cancelled:
        cancelled = True
        for task in waiting:
          ray.cancel(task)  # sends SIGINT to the worker, which writes a checkpoint and stops
  if stop():
    raise Stopped
  for name, state in run_files.statuses(sweep.folder, ids).items():
    if state.get("status") not in run_files.ENDED:
      run_files.fail(sweep, sweep.ids[name], "worker", RuntimeError("its Ray task was cancelled"))


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[str]:
  """Connects to the cluster of `--ray_address`, yields its head's address, and disconnects.

  If the address is `local`, starts a cluster on this machine.

  Raises:
    ValueError: if the cluster does not answer, or this machine is too small for a task.
  """
  address = flags.FLAGS.ray_address
  # Disables usage statistics, and limits how often Ray retries a task that runs out of memory,
  # because by default Ray retries it forever.
  os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}
  here = {"num_cpus": len(provenance.cores()), "include_dashboard": False}
  before = signal.getsignal(signal.SIGTERM)
  try:
    if ":" in address:  # tried first, because Ray itself retries a dead address for minutes
      host, port = address.rsplit(":", 1)
      socket.create_connection((host, int(port)), timeout=10).close()
    with warnings.catch_warnings():
      # JAX warns that a fork may deadlock. Ray's forks do not, because they call exec right away.
      warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
      ray.init(
        address, log_to_driver=False, logging_level="ERROR", **here if address == "local" else {}
      )
  except (OSError, RuntimeError) as error:
    reason = str(error).strip().split("\n")[0]
    raise ValueError(
      f"--ray_address must be the address of a running cluster, got {address} ({reason})."
    ) from None
  # Restores the earlier handler, because the one that Ray installed would end this process at once.
  signal.signal(signal.SIGTERM, before)
  try:
    if address == "local":
      _check_resources(ray.cluster_resources())
    yield ray.get_runtime_context().gcs_address
  finally:
    ray.shutdown()


def _answers(head: str) -> bool:
  """Returns whether the cluster's head accepts a connection."""
  host, port = head.rsplit(":", 1)
  try:
    socket.create_connection((host, int(port)), timeout=_POLL_SECONDS).close()
  except OSError:
    return False
  return True


def _check_resources(available: dict[str, float]) -> None:
  """Checks that this machine has the resources that each task requests.

  Without this check, Ray would wait forever for another machine to join the cluster.

  Args:
    available: {Ray's name of a resource: amount that the cluster has}.
  Raises:
    ValueError: if a task requests more of a resource than the cluster has.
  """
  for name, kind, unit in (("cpus", "CPU", 1), ("gpus", "GPU", 1), ("memory", "memory", 2**30)):
    most, wanted = available.get(kind, 0.0) / unit, flags.FLAGS[f"{name}_per_task"].value or 0
    if wanted > most:
      raise ValueError(
        f"--{name}_per_task must be at most what this machine has, {most:g}, got {wanted}."
      )


def _resources() -> dict[str, int]:
  """Returns the resources that each task requests, as keyword arguments of `ray.remote`."""
  values = flags.FLAGS
  memory = {} if values.memory_per_task is None else {"memory": values.memory_per_task * 2**30}
  return {"num_cpus": values.cpus_per_task, "num_gpus": values.gpus_per_task, **memory}


def _submit(ray: Any, job: WorkerJob) -> Any:
  # Every task gets a process of its own (max_calls=1), because JAX can be configured only once per
  # process. A task is retried if its worker dies, but not if it raises, because a retry would raise
  # the same error.
  how = {"max_calls": 1, "max_retries": RETRIES, "retry_exceptions": False}
  return ray.remote(**how, **_resources())(_train).remote(job)


def _train(job: WorkerJob) -> tuple[dict[str, object], dict[str, dict[str, bytes]]]:
  """Trains a job's runs; this is the function that a Ray task executes.

  Returns:
    (description of the worker's environment, {id of a completed run: {file name: contents}}).
  """
  stop = Stop()
  signal.signal(signal.SIGINT, lambda number, _: setattr(stop, "number", number))
  sweep = worker.train(job, stop)
  missing = worker.missing_runs(sweep, job.ids)
  completed = [name for name in job.ids if name not in missing]
  return locking.about(sweep), {name: run_files.read_all(sweep.folder, name) for name in completed}


def _gather(ray: Any, sweep: Sweep, task: Any, job: WorkerJob) -> None:
  """Writes the files that a finished task returned into the driver's folder.

  Runs that are already in that folder, because the worker shares it, are not written again. If the
  task failed because its workers died, its missing runs are recorded as failed.

  Raises:
    Exception: the error of the task, if it raised one.
  """
  try:
    about, runs = ray.get(task)
  except ray.exceptions.TaskCancelledError:
    return
  except ray.exceptions.RayTaskError as error:
    raise error.cause from None
  except ray.exceptions.RayError as error:  # raised after workers died more than RETRIES times
    for name in worker.missing_runs(sweep, job.ids):
      run_files.fail(sweep, sweep.ids[name], "worker", error)
    return
  sweep_folder.note_environment(sweep.folder, about)
  for name, contents in runs.items():
    # A shared folder has this status already. It may come from different code than this process's,
    # so the statuses are compared.
    if json.loads(contents["status.json"]) != run_files.status(sweep.folder, name):
      run_files.write_all(sweep.folder, name, contents)
