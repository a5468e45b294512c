"""Ray trains the groups of a sweep, one task a group, in a fresh process."""

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
from experiments.sweep.records import access, run_files
from experiments.sweep.records import folder as sweep_folder
from experiments.sweep.training import train as training

# How often a task begins anew whose worker died. It goes on from checkpoints if its folder is on a
# file system that the workers share; one that dies of what it does would die for ever.
RETRIES = 10
_SECONDS_BETWEEN_LOOKS = 2.0


def train(sweep: Sweep, ids: Sequence[str], stop: Callable[[], bool], news: training.News) -> None:
  """Trains runs of a sweep; arguments and errors as those of `work.train`."""
  import ray  # an extra

  parts = worker.parts(sweep, ids)
  if not parts:
    return
  follow = worker.Follower(sweep, ids, news)
  with _connected(ray):
    waiting = {_submit(ray, part): part for part in parts}
    asked = False
    while waiting:
      ended, _ = ray.wait(list(waiting), timeout=_SECONDS_BETWEEN_LOOKS)
      for task in ended:
        _gather(ray, sweep, task, waiting.pop(task))
      follow()
      if stop() and not asked:
        asked = True
        for task in waiting:
          ray.cancel(task)  # what the worker takes for Ctrl-C
  if stop():
    raise training.Stopped
  for name in worker.lacking(sweep, ids):
    training.fail(sweep, sweep.ids[name], "worker", RuntimeError("it was cancelled"))


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[None]:
  """Within it, there is a cluster."""
  address = flags.FLAGS.ray_address
  # Nothing is sent anywhere; and what memory does not suffice for is not tried for ever.
  os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}
  here = {"num_cpus": len(provenance.cores()), "include_dashboard": False}
  before = signal.getsignal(signal.SIGTERM)
  try:
    if ":" in address:  # in vain, Ray would try for minutes
      host, port = address.rsplit(":", 1)
      socket.create_connection((host, int(port)), timeout=10).close()
    with warnings.catch_warnings():
      # jax fears for what is forked from it. Ray's processes execute another program at once.
      warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
      ray.init(
        address, log_to_driver=False, logging_level="ERROR", **here if address == "local" else {}
      )
  except (OSError, RuntimeError) as error:
    reason = str(error).strip().split("\n")[0]
    raise ValueError(f"--ray_address must be of a cluster, got {address} ({reason}).") from None
  signal.signal(signal.SIGTERM, before)  # Ray's own would end this process
  try:
    if address == "local":
      _check_resources(ray.cluster_resources())
    yield
  finally:
    ray.shutdown()


def _check_resources(found: dict[str, float]) -> None:
  """Refuses tasks that a cluster of one machine would never begin."""
  for name, kind, unit in (("cpus", "CPU", 1), ("gpus", "GPU", 1), ("memory", "memory", 2**30)):
    there, wanted = found.get(kind, 0.0) / unit, flags.FLAGS[f"{name}_per_task"].value or 0
    if wanted > there:
      raise ValueError(
        f"--{name}_per_task must be at most what this machine has, {there:g}, got {wanted}."
      )


def _resources() -> dict[str, int]:
  """Of a task, in Ray's words."""
  values = flags.FLAGS
  memory = {} if values.memory_per_task is None else {"memory": values.memory_per_task * 2**30}
  return {"num_cpus": values.cpus_per_task, "num_gpus": values.gpus_per_task, **memory}


def _submit(ray: Any, part: worker.Part) -> Any:
  # One call a process: jax can be set up but once, and a process that is killed is the one that
  # computes. A configuration that is wrong would be wrong again.
  how = {"max_calls": 1, "max_retries": RETRIES, "retry_exceptions": False}
  return ray.remote(**how, **_resources())(_train).remote(part)


def _train(part: worker.Part) -> tuple[dict[str, Any], dict[str, dict[str, bytes]]]:
  """A task: trains, and returns with what, and the files of the runs that have come to an end."""
  stop = Stop()
  signal.signal(signal.SIGINT, lambda number, _: setattr(stop, "number", number))
  sweep = worker.train(part, stop)
  lacking = worker.lacking(sweep, part.ids)
  over = [name for name in part.ids if name not in lacking]
  return access.about(sweep), {name: run_files.read(sweep.folder, name) for name in over}


def _gather(ray: Any, sweep: Sweep, task: Any, part: worker.Part) -> None:
  """Writes what a task has come to into the driver's folder, as far as it is not there."""
  try:
    about, runs = ray.get(task)
  except ray.exceptions.TaskCancelledError:
    return
  except ray.exceptions.RayTaskError as error:
    raise error.cause from None
  except ray.exceptions.RayError as error:  # its workers have died, time after time
    for name in worker.lacking(sweep, part.ids):
      training.fail(sweep, sweep.ids[name], "worker", error)
    return
  sweep_folder.note(sweep.folder, about)
  for name, run in runs.items():
    if not sweep_folder.has_ended(sweep.folder, name):
      run_files.write(sweep.folder, name, run)
