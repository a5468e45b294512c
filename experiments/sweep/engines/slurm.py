"""The SLURM engine: trains each group of runs as one job of a job array, submitted by submitit."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.runtime import files
from experiments.runtime.signals import Stop
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.engines import worker
from experiments.sweep.engines.worker import WorkerJob
from experiments.sweep.records import run_files
from experiments.sweep.training.train import OnProgress, Stopped

# The maximum number of times that a job is requeued after it reached its time limit. A requeued job
# resumes from its checkpoints.
_TIME_LIMITS = 1000
_POLL_SECONDS = 1.0
# The longest time that a network file system may take to show files that another machine wrote.
_FILE_SYSTEM_SECONDS = 120.0
_ALIVE = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "PREEMPTED", "COMPLETING")


class Job:
  """The callable that a SLURM job runs; submitit requires `__call__` and `checkpoint`."""

  def __init__(self, job: WorkerJob):
    self._job = job
    self._stop = Stop()
    self._training = False
    self._done = False

  def __call__(self) -> str | None:
    """Trains the job's runs.

    Training runs in a thread of its own, because the main thread must stay free for `checkpoint`,
    which a signal handler calls and which waits for training to stop.

    Returns:
      The message of an error that the user has to fix; None if there was no such error.
    """
    errors: list[BaseException] = []

    def train() -> None:
      self._training = True
      try:
        worker.train(self._job, self._stop)
      except BaseException as error:  # returned or raised by the main thread, below
        errors.append(error)
      self._done = True
      self._training = False

    threading.Thread(target=train, daemon=True).start()
    while not self._done:
      time.sleep(0.1)
    for error in errors:
      if isinstance(error, (ValueError, OSError)):
        return str(error)
      raise error
    return None

  def checkpoint(self) -> Any:
    """Stops training at a checkpoint and returns the job to requeue.

    Called by submitit when the job reaches its time limit.
    """
    from submitit.helpers import DelayedSubmission

    self._stop.number = signal.SIGUSR2
    # Polls a flag instead of waiting for a lock, because this method runs in a signal handler, and
    # the code that the signal interrupted might hold the lock.
    while self._training:
      time.sleep(0.1)
    return DelayedSubmission(Job(self._job))


def train_runs(
  sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], on_progress: OnProgress
) -> None:
  """Trains runs of a sweep; arguments and errors are those of `training.train.train_runs`.

  If `stop()` returns True, the SLURM jobs are left running. After they have finished, running the
  same command again gathers their results.
  """
  import submitit  # imported here because it is an optional dependency

  logs = sweep.folder.absolute() / "slurm_logs"
  _refuse_old_jobs(submitit, logs)
  jobs = worker.jobs(sweep, ids)
  if not jobs:
    return
  executor = _executor(submitit, logs)
  try:
    with executor.batch():
      waiting = {executor.submit(Job(job)): job for job in jobs}
  except submitit.core.utils.FailedJobError as error:
    raise ValueError(f"sbatch refused the jobs; check --slurm_option: {error}") from None
  names = [submitted.job_id for submitted in waiting]
  files.write_json(logs / "jobs.json", {"cluster": flags.FLAGS.slurm_cluster, "jobs": names})
  poll = worker.Poller(sweep, ids, on_progress)
  try:
    while waiting:
      for submitted in [submitted for submitted in waiting if submitted.done()]:
        _check(submitit, sweep, submitted, waiting.pop(submitted))
      poll()
      if stop() and waiting:
        raise Stopped
      if waiting:
        time.sleep(_POLL_SECONDS)
  finally:
    if waiting:
      names = [submitted.job_id for submitted in waiting]
      print(
        f"These SLURM jobs continue: {', '.join(names)}. Once they have finished, run the same "
        f"command again to gather their results; to end them, run scancel {' '.join(names)}.",
        file=sys.stderr,
      )


def _executor(submitit: Any, logs: Path) -> Any:
  values = flags.FLAGS
  cluster = values.slurm_cluster
  limit = {f"{cluster}_max_num_timeout": _TIME_LIMITS}
  executor = submitit.AutoExecutor(folder=logs, cluster=cluster, **limit)
  options = {name: value or True for name, value in values.slurm_option or ()}
  executor.update_parameters(
    name="rnn_jax",
    timeout_min=values.slurm_minutes,
    cpus_per_task=values.cpus_per_task,
    gpus_per_node=values.gpus_per_task or None,
    mem_gb=values.memory_per_task,
    slurm_additional_parameters=options or None,
    # From SLURM 22.05 on, srun gets its job's cores only if it requests them itself.
    slurm_srun_args=[f"--cpus-per-task={values.cpus_per_task}"],
  )
  return executor


def _refuse_old_jobs(submitit: Any, logs: Path) -> None:
  """Checks that the folder has no unfinished SLURM jobs from an earlier launch.

  The folder's locks reveal a running job but not a queued one, which would start later and find its
  runs locked by the new jobs.

  Raises:
    ValueError: if there are such jobs.
  """
  try:
    old = files.read_json(logs / "jobs.json")
  except FileNotFoundError:
    return
  if old["cluster"] == "slurm":
    jobs = [submitit.SlurmJob(logs, name) for name in old["jobs"]]
    alive = [j.job_id for j in jobs if not j.paths.result_pickle.exists() and j.state in _ALIVE]
    if alive:
      raise ValueError(
        f"--output_dir still has SLURM jobs from an earlier launch ({', '.join(alive)}). Wait for "
        f"them to finish, or run scancel {' '.join(alive)}."
      )


def _check(submitit: Any, sweep: Sweep, submitted: Any, job: WorkerJob) -> None:
  """Waits until the records of a finished SLURM job are visible in the sweep's folder.

  If the job itself failed, the runs that it did not complete are recorded as failed instead.

  Raises:
    ValueError: if the job returned an error that the user has to fix, or its records are not
      visible after `_FILE_SYSTEM_SECONDS`.
  """
  try:
    mistake = submitted.result()
  except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
    reason = RuntimeError(f"SLURM job {submitted.job_id} failed; see {submitted.paths.stderr}")
    reason.__cause__ = error
    for name in worker.missing_runs(sweep, job.ids):
      run_files.fail(sweep, sweep.ids[name], "worker", reason)
    return
  if mistake is not None:
    raise ValueError(mistake)
  late = time.monotonic() + _FILE_SYSTEM_SECONDS
  while worker.missing_runs(sweep, job.ids):
    if time.monotonic() > late:
      raise ValueError(
        f"--output_dir must be a folder that all machines of the cluster share, got {sweep.folder}."
      )
    time.sleep(_POLL_SECONDS)
