"""Flags that select the processes that train a sweep: shards, engine workers, several hosts."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from experiments.cli.flag_table import Flag
from experiments.cli.parsers import address, choice, integer
from experiments.runtime.hosts import Processes

# {engine: (the package that it needs, the extra of rnn_jax that installs this package)}; None for
# the engine that needs no package.
_PACKAGES = {"local": None, "ray": ("ray", "ray"), "slurm": ("submitit", "slurm")}
ENGINE_NAMES = tuple(_PACKAGES)
# With a shorter time limit, a job would have no time to train. submitit asks SLURM for a signal 90
# seconds before the limit, and SLURM sends it up to 60 seconds earlier.
_MINUTES = 3


@dataclasses.dataclass(frozen=True)
class Shard:
  """A shard: the part of a sweep's runs that one of several independent processes trains.

  Attributes:
    index: index of the shard, from 0.
    count: number of shards.
  """

  index: int
  count: int


# {option of sbatch that the engine sets itself: our flag for it, or '' if there is none}.
_ENGINE_OPTIONS = {
  "time": "slurm_minutes",
  "time-min": "slurm_minutes",
  "cpus-per-task": "cpus_per_task",
  "cpus-per-gpu": "cpus_per_task",
  **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), "gpus_per_task"),
  **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "memory_per_task"),
  **dict.fromkeys(("nodes", "ntasks", "tasks", "tasks-per-node", "array", "job-name"), ""),
  **dict.fromkeys(("ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node"), ""),
  **dict.fromkeys(("ntasks-per-socket", "chdir", "workdir", "output", "error", "open-mode"), ""),
  **dict.fromkeys(("signal", "no-requeue", "wrap", "wait", "test-only", "parsable", "quiet"), ""),
}
_SHORT = {
  **{"t": "time", "c": "cpus-per-task", "G": "gpus", "N": "nodes", "n": "ntasks", "a": "array"},
  **{"J": "job-name", "D": "chdir", "o": "output", "e": "error", "W": "wait", "Q": "quiet"},
}


def _option(text: str) -> tuple[str, str]:
  name, equals, value = text.partition("=")
  name = name.strip().lstrip("-").replace("_", "-")
  name = _SHORT.get(name, name)
  if not (name and equals and all(part.isalnum() for part in name.split("-"))):
    raise ValueError(f"slurm_option must be NAME=VALUE, got '{text}'.")
  # sbatch also accepts the beginning of a name.
  for option, flag in _ENGINE_OPTIONS.items():
    if option.startswith(name) or (name == "gres" and flag == "gpus_per_task" and "gpu" in value):
      instead = f"; use --{flag}" if flag else ""
      raise ValueError(
        f"slurm_option must not be {option}, which the engine sets itself{instead}, got '{text}'."
      )
  if "\n" in value:
    raise ValueError(f"slurm_option must be one line, got '{text}'.")
  return name, value.strip()


def _minutes(text: str) -> int | None:
  value = integer("slurm_minutes")(text)
  if value is not None and value < _MINUTES:
    raise ValueError(
      f"slurm_minutes must be at least {_MINUTES}, because SLURM may send a job the signal to "
      f"write a checkpoint 150 seconds before its time limit, got {text}."
    )
  return value


PROCESSES = (
  Flag(
    "coordinator",
    "none",
    address("coordinator", "auto", none="none"),
    "Address of process 0, HOST:PORT, if several processes train each run together; auto to find "
    "it in the environment (JAX_COORDINATOR_ADDRESS, SLURM, Open MPI, Kubernetes, Cloud TPU); none "
    "if this process trains alone.",
  ),
  Flag(
    "num_processes",
    "auto",
    integer("num_processes", none="auto"),
    "Number of processes that train together, or auto to find it in the environment.",
  ),
  Flag(
    "process_id",
    "auto",
    integer("process_id", minimum=0, none="auto"),
    "Index of this process among those that train together, from 0, or auto to find it in the "
    "environment.",
  ),
)

TABLE = (
  Flag(
    "num_shards",
    "none",
    integer("num_shards", none="none"),
    "Number of shards that the sweep is split into, of which this process trains one; "
    "experiments.merge combines them. none for no shards.",
  ),
  Flag(
    "shard_index",
    "none",
    integer("shard_index", minimum=0, none="none"),
    "Index of this process's shard, from 0, such as $JOB_COMPLETION_INDEX in an indexed Kubernetes "
    "job. none for no shards.",
  ),
  Flag(
    "engine",
    "local",
    choice("engine", ENGINE_NAMES),
    "What trains the runs: local, this process; ray, Ray tasks; slurm, SLURM jobs. Each task or "
    "job trains the runs of one group; this process waits for them and gathers the records.",
  ),
  Flag(
    "cpus_per_task",
    "1",
    integer("cpus_per_task"),
    "CPU cores to request for each Ray task or SLURM job.",
  ),
  Flag(
    "gpus_per_task",
    "0",
    integer("gpus_per_task", minimum=0),
    "GPUs to request for each Ray task or SLURM job. It trains on them, or if 0 on its CPU cores.",
  ),
  Flag(
    "memory_per_task",
    "none",
    integer("memory_per_task", none="none"),
    "Memory to request for each Ray task or SLURM job, in GiB, or none to request none.",
  ),
  Flag(
    "ray_address",
    "local",
    address("ray_address", "auto", "local"),
    "Address of a Ray cluster, HOST:PORT; auto for the cluster that this machine belongs to; local "
    "to start one on this machine.",
  ),
  Flag(
    "slurm_cluster",
    "slurm",
    choice("slurm_cluster", ("slurm", "local")),
    "Where the jobs run: slurm, or local to run them as processes on this machine, for tests.",
  ),
  Flag(
    "slurm_minutes",
    "1440",
    _minutes,
    "Time limit of a SLURM job, in minutes, at least 3. A job that reaches it is requeued and "
    "resumes from its checkpoints.",
  ),
  Flag(
    "slurm_option",
    "none",
    _option,
    "Additional option of sbatch, as NAME=VALUE, such as partition=gpu. Repeatable.",
    "repeated",
  ),
)


def processes() -> Processes | None:
  """Returns the processes that train each run together; None if this process trains alone.

  Raises:
    ValueError: if --num_processes or --process_id is given without --coordinator.
  """
  values = flags.FLAGS
  if values.coordinator is not None:
    return Processes(values.coordinator, values.num_processes, values.process_id)
  for name in ("num_processes", "process_id"):
    if values[name].value is not None:
      raise ValueError(f"--{name} needs --coordinator, got {values[name].value} without it.")
  return None


def shard(values: Mapping[str, Any]) -> Shard | None:
  """Returns the shard that this process trains; None if it trains the whole sweep.

  Args:
    values: {flag: its parsed value}.

  Raises:
    ValueError: if the flags for shards contradict each other or other flags.
  """
  index, count = values["shard_index"], values["num_shards"]
  if index is None and count is None:
    return None
  if index is None or count is None:
    missing, other = ("shard_index", "num_shards")[:: 1 if index is None else -1]
    raise ValueError(f"--{other} needs --{missing}, got {values[other]} without it.")
  if index >= count:
    raise ValueError(f"--shard_index must be below --num_shards={count}, got {index}.")
  if values["engine"] != "local":
    raise ValueError(f"--num_shards needs --engine=local, got {values['engine']}.")
  if values["overwrite"]:
    raise ValueError(
      "--overwrite must not be given with --num_shards: a shard would replace the other shards' "
      "records."
    )
  return Shard(index, count)


def check_engine() -> None:
  """Checks that the engine can run on this machine, and leaves the accelerators to its workers.

  If the engine starts workers, JAX in this process is restricted to the CPU. Must be called before
  JAX first uses a device.

  Raises:
    ValueError: if the engine's package or cluster is missing, or --coordinator is given although
      the engine is not `local`.
  """
  values = flags.FLAGS
  name = values.engine
  needed = _PACKAGES[name]
  if needed is None:
    return
  if values.coordinator is not None:
    raise ValueError(f"--coordinator needs --engine=local, got {name}.")
  jax.config.update("jax_platforms", "cpu")
  if values.dry_run:
    return
  package, extra = needed
  if importlib.util.find_spec(package) is None:
    raise ValueError(
      f"--engine={name} needs the package {package}; in the clone: pip install -e '.[{extra}]'."
    )
  if name == "slurm" and values.slurm_cluster == "slurm" and shutil.which("srun") is None:
    raise ValueError(
      "--engine=slurm must run on a SLURM cluster, but srun was not found. Use "
      "--slurm_cluster=local for a test on this machine."
    )


def devices(values: Mapping[str, Any]) -> list[jax.Device]:
  """Returns the devices that train the runs.

  With --engine=local these are JAX's devices, of all processes that train together. With Ray or
  SLURM the workers' devices are not visible here, so the result is a list of placeholders: a CPU
  device of this process, repeated for each device of a worker.

  Args:
    values: {flag: its parsed value}.
  """
  if values["engine"] == "local":
    return jax.devices()
  return jax.devices()[:1] * (values["gpus_per_task"] or values["cpus_per_task"])
