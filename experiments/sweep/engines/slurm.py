"""SLURM trains the groups of a sweep, one job of an array a group; submitit submits them."""

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
from experiments.sweep.training import train as training

# How often a job may reach its time limit and go back into the queue: each goes on from the last.
_TIME_LIMITS = 1000
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_SEE_FILES = 120.0  # a file system in a network may be slow to show what others wrote
_ALIVE = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "PREEMPTED", "COMPLETING")


class Job:
  """What a job calls; submitit asks for an object with these two methods."""

  def __init__(self, part: worker.Part):
    self._part = part
    self._stop = Stop()
    self._training = False
    self._ended = False

  def __call__(self) -> str | None:
    """Trains, in a thread, so that a handler of a signal in the main one can wait for it.

    Returns:
      What a user has to put right, if there is anything.
    """
    errors: list[BaseException] = []

    def train() -> None:
      self._training = True
      try:
        worker.train(self._part, self._stop)
      except BaseException as error:  # of the main thread's business
        errors.append(error)
      self._ended = True
      self._training = False

    threading.Thread(target=train, daemon=True).start()
    while not self._ended:
      time.sleep(0.1)
    for error in errors:
      if isinstance(error, (ValueError, OSError)):
        return str(error)
      raise error
    return None

  def checkpoint(self) -> Any:
    """Saves, and says how to go on; submitit's handler calls it when the job's time is over."""
    from submitit.helpers import DelayedSubmission

    self._stop.number = signal.SIGUSR2
    # No lock is waited for: what the handler has interrupted may hold it.
    while self._training:
      time.sleep(0.1)
    return DelayedSubmission(Job(self._part))


def train(sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], news: training.News) -> None:
  """Trains runs of a sweep; arguments and errors as those of `work.train`.

  One who is asked to stop leaves the jobs to themselves. They go on, and the same command, given
  again when they have ended, gathers what they have come to.
  """
  import submitit  # an extra

  logs = sweep.folder.absolute() / "slurm_logs"
  _refuse_old_jobs(submitit, logs)
  parts = worker.parts(sweep, ids)
  if not parts:
    return
  executor = _executor(submitit, logs)
  try:
    with executor.batch():
      waiting = {executor.submit(Job(part)): part for part in parts}
  except submitit.core.utils.FailedJobError as error:
    raise ValueError(f"--slurm_option and the like must be what sbatch takes: {error}") from None
  names = [job.job_id for job in waiting]
  files.write_json(logs / "jobs.json", {"cluster": flags.FLAGS.slurm_cluster, "jobs": names})
  follow = worker.Follower(sweep, ids, news)
  try:
    while waiting:
      for job in [job for job in waiting if job.done()]:
        _check(submitit, sweep, job, waiting.pop(job))
      follow()
      if stop() and waiting:
        raise training.Stopped
      if waiting:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
  finally:
    if waiting:
      print(f"Jobs that go on: {', '.join(job.job_id for job in waiting)}.", file=sys.stderr)


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
    # Since SLURM 22.05, a step does not have the cores of its job unless it asks for them.
    slurm_srun_args=[f"--cpus-per-task={values.cpus_per_task}"],
  )
  return executor


def _refuse_old_jobs(submitit: Any, logs: Path) -> None:
  """Refuses a folder of which an earlier start has jobs that have not ended.

  Those that train hold a lock. Those in the queue would find their runs in other hands.
  """
  try:
    left = files.read_json(logs / "jobs.json")
  except FileNotFoundError:
    return
  if left["cluster"] == "slurm":
    jobs = [submitit.SlurmJob(logs, name) for name in left["jobs"]]
    alive = [j.job_id for j in jobs if not j.paths.result_pickle.exists() and j.state in _ALIVE]
    if alive:
      raise ValueError(
        f"--output_dir must be a folder of which no job is left: {', '.join(alive)} are of an "
        "earlier start. Wait until they have ended, or end them by scancel."
      )


def _check(submitit: Any, sweep: Sweep, job: Any, part: worker.Part) -> None:
  """Sees to it that the runs of a job that has ended are in the folder, or have failed."""
  try:
    wrong = job.result()
  except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
    reason = RuntimeError(f"job {job.job_id} did not end as it should; see {job.paths.stderr}")
    reason.__cause__ = error
    for name in worker.lacking(sweep, part.ids):
      training.fail(sweep, sweep.ids[name], "worker", reason)
    return
  if wrong is not None:
    raise ValueError(wrong)
  late = time.monotonic() + _SECONDS_TO_SEE_FILES
  while worker.lacking(sweep, part.ids):
    if time.monotonic() > late:
      raise ValueError(
        f"--output_dir must be a folder that all machines of the cluster share, got {sweep.folder}."
      )
    time.sleep(_SECONDS_BETWEEN_LOOKS)
