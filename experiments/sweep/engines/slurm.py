"""The SLURM engine: trains each group of runs as one job of a job array, submitted by submitit."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.runtime import exits, files
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
# squeue is called at most this often, because each call costs SLURM's controller time.
_QUEUE_SECONDS = 10.0
# A job without a result counts as ended when squeue has not listed it for this long.
_LOST_SECONDS = 20.0
# Variables that sbatch prefers to the options in its script, where submitit puts the engine's.
_VARIABLES = "ARRAY_INX ERROR GPUS JOB_NAME NO_REQUEUE OPEN_MODE OUTPUT SIGNAL TIMELIMIT WAIT"
# Starts Python with SIGUSR2 blocked, because the signal would kill a job that has no handler yet.
# `Job` unblocks it. A shell starts faster, and ignores the signal until Python has started.
_START = """import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""
_SHELL = ("/bin/sh", "-c", 'trap \'\' USR2; exec "$0" "$@"')


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
    # submitit has installed its handler by now. A signal that came before is delivered here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
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
  for name in _VARIABLES.split():
    os.environ.pop(f"SBATCH_{name}", None)
  try:
    with executor.batch():
      waiting = {executor.submit(Job(job)): job for job in jobs}
  except submitit.core.utils.FailedJobError as error:
    raise ValueError(f"sbatch refused the jobs; check --slurm_option: {error}") from None
  names = [submitted.job_id for submitted in waiting]
  files.write_json(logs / "jobs.json", {"cluster": flags.FLAGS.slurm_cluster, "jobs": names})
  poll = worker.Poller(sweep, ids, on_progress)
  ended = _ended_here if flags.FLAGS.slurm_cluster == "local" else _Queue().ended
  try:
    while waiting:
      for submitted in ended(waiting):
        _check(submitit, sweep, submitted, waiting.pop(submitted))
      poll()
      if stop() and waiting:
        raise Stopped
      if waiting:
        time.sleep(_POLL_SECONDS)
  finally:
    if waiting:
      names = [submitted.job_id for submitted in waiting]
      exits.say(
        f"These SLURM jobs continue: {', '.join(names)}. Once they have finished, run the same "
        f"command again to gather their results; to end them, run scancel {' '.join(names)}."
      )


def _executor(submitit: Any, logs: Path) -> Any:
  values = flags.FLAGS
  cluster = values.slurm_cluster
  python = shlex.join((*_SHELL, sys.executable, "-S", "-c", _START))  # -S: sooner
  how = {f"{cluster}_max_num_timeout": _TIME_LIMITS, f"{cluster}_python": python}
  executor = submitit.AutoExecutor(folder=logs, cluster=cluster, **how)
  # Clusters with JobRequeue=0 requeue only jobs that set this option.
  options = {"requeue": True, **{name: value or True for name, value in values.slurm_option or ()}}
  executor.update_parameters(
    name="rnn_jax",
    timeout_min=values.slurm_minutes,
    cpus_per_task=values.cpus_per_task,
    gpus_per_node=values.gpus_per_task or None,
    mem_gb=values.memory_per_task,
    slurm_additional_parameters=options,
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
    unfinished = [job.job_id for job in jobs if not job.paths.result_pickle.exists()]
    queued = _squeue() if unfinished else {}
    alive = [name for name in unfinished if name in queued]
    if alive:
      raise ValueError(
        f"--output_dir still has SLURM jobs from an earlier launch ({', '.join(alive)}). Wait for "
        f"them to finish, or run scancel {' '.join(alive)}."
      )


def _ended_here(waiting: Iterable[Any]) -> list[Any]:
  """Returns those of the jobs on this machine that have ended."""
  return [submitted for submitted in waiting if submitted.done()]


class _Queue:
  """SLURM's queue, which tells whether jobs have ended, and prints why jobs are pending.

  It is read from squeue, which unlike sacct needs no accounting, and lists a job that is suspended
  or requeued.
  """

  def __init__(self) -> None:
    self._due = 0.0  # when to call squeue again
    self._lost: dict[str, float] = {}  # since when squeue has not listed a job
    self._said: set[str] = set()

  def ended(self, waiting: Iterable[Any]) -> list[Any]:
    """Returns those of the jobs that have a result, or have left the queue without one."""
    waiting = list(waiting)
    now = time.monotonic()
    if now >= self._due:
      self._ask([submitted.job_id for submitted in waiting], now)
      self._due = time.monotonic() + _QUEUE_SECONDS
    # Lists the folder, because a network file system may answer from its cache that a single file
    # does not exist.
    results = set(os.listdir(waiting[0].paths.folder))
    return [
      submitted
      for submitted in waiting
      if submitted.paths.result_pickle.name in results
      or now - self._lost.get(submitted.job_id, now) > _LOST_SECONDS
    ]

  def _ask(self, names: Sequence[str], now: float) -> None:
    """Reads the queue, and prints what holds jobs up, again whenever that changes."""
    held: dict[str, list[str]] = {}
    try:
      queued = _squeue()
      self._lost = {name: self._lost.get(name, now) for name in names if name not in queued}
      for name in names:
        if queued.get(name):
          held.setdefault(queued[name], []).append(name)
    except ValueError as error:  # such as a restart of SLURM's controller
      held[f"in an unknown state ({error})"] = list(names)
    for why, jobs in held.items():
      if why not in self._said:
        more = f" and {len(jobs) - 1} more" if jobs[1:] else ""
        exits.say(exits.printable(f"SLURM jobs {why}: {jobs[0]}{more}"))
    self._said = set(held)


def _squeue() -> dict[str, str]:
  """Returns {id: what holds it up, or ''} of the user's SLURM jobs that have not ended.

  Raises:
    ValueError: if squeue fails.
  """
  # Variables such as SQUEUE_STATES would hide jobs.
  environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
  command = ("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r")
  try:
    result = subprocess.run(
      command, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
  except (OSError, subprocess.SubprocessError) as error:
    reason = getattr(error, "stderr", None) or error
    raise ValueError(f"squeue failed: {str(reason).strip()}") from None
  found = {}
  for line in result.stdout.splitlines():
    name, _, state = line.partition("|")
    state, _, reason = state.partition("|")
    found[name] = "suspended" if state == "SUSPENDED" else ""
    if state == "PENDING" and reason != "None":  # None: the scheduler has not considered it yet
      found[name] = f"pending ({reason})"
  return found


def _check(submitit: Any, sweep: Sweep, submitted: Any, job: WorkerJob) -> None:
  """Waits until the records of a finished SLURM job are visible in the sweep's folder.

  If the job itself failed, the runs that it did not complete are recorded as failed instead.

  Raises:
    ValueError: if the job returned an error that the user has to fix, or its records are not
      visible after `_FILE_SYSTEM_SECONDS`.
  """
  try:
    # Without a result, `result()` would wait for sacct to tell how the job ended.
    if not submitted.paths.result_pickle.exists():
      raise submitit.core.utils.UncompletedJobError(submitted.stderr() or "It printed nothing.")
    mistake = submitted.result()
  except submitit.core.utils.UncompletedJobError as error:
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
      states = run_files.statuses(sweep.folder, job.ids).values()
      if all(state.get("status") in run_files.ENDED for state in states):
        return  # the worker ran other code than this process
      raise ValueError(
        f"--output_dir must be a folder that all machines of the cluster share, got {sweep.folder}."
      )
    time.sleep(_POLL_SECONDS)
