"""Locks a sweep's folder, and prepares the folder while it is locked.

Processes lock bytes of the file `.lock`. Byte 0 stands for the folder as a whole. Byte 1 + i stands
for the i-th run when all runs are sorted by group (a group is the runs that share a compiled
program), so that the runs of a group have consecutive bytes.

- A process that trains a whole sweep by itself locks all bytes.
- A shard (a process that trains a fixed part of the sweep, chosen by `--num_shards`) locks the
  bytes of its runs. It also takes a shared lock on byte 0, which all shards can hold together.
- A driver (a process that starts workers through Ray or SLURM) locks byte 0.
- A worker trains runs of one group. It locks the bytes of all runs of this group.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.runtime import backend, locks
from experiments.runtime.locks import ByteRange
from experiments.sweep.config.flags import as_flagfile
from experiments.sweep.config.groups import by_group
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import origins, sweep_folder
from rnn_jax.tasks import DataFile


def runs_of(sweep: Sweep) -> list[str]:
  """Returns the ids of the runs that this process is responsible for: all, or its shard's.

  A shard gets consecutive runs from the list of all runs sorted by group. It thus compiles few
  programs, because the runs of a group share one.
  """
  if sweep.shard is None:
    return list(sweep.ids)
  order = _in_group_order(sweep)
  index, count = sweep.shard.index, sweep.shard.count
  first, last = (len(order) * i // count for i in (index, index + 1))
  return order[first:last]


def _in_group_order(sweep: Sweep) -> list[str]:
  groups = by_group(sweep.ids.values())
  return [sweep.names[run] for runs in groups.values() for run in runs]


@contextlib.contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
  """Holds the driver's lock, which excludes all other processes except workers started afterwards.

  Raises:
    ValueError: if another process holds a lock on the folder.
  """
  # Check all bytes first, because workers of an earlier, dead driver may still lock their runs.
  with locks.folder_lock(folder):
    pass
  with locks.folder_lock(folder, ByteRange(0, 1)):
    yield


@contextlib.contextmanager
def runs_lock(sweep: Sweep, ids: Sequence[str], *, worker: bool = False) -> Iterator[None]:
  """Holds the locks of some runs, for a shard or a worker.

  In the folder's lock file, byte 0 is the lock of the whole sweep, and every run has one more byte.

  Args:
    sweep: the sweep.
    ids: ids of the runs, which must be consecutive in the list of all runs sorted by group.
    worker: if True, only the bytes of the runs are locked, because the worker's driver holds byte
      0. If False, for a shard, byte 0 is locked too, shared with other shards.
  Raises:
    ValueError: if another process holds one of these locks.
  """
  ranges = [] if worker else [ByteRange(0, 1, shared=True)]
  if ids:
    order = _in_group_order(sweep)
    first, last = order.index(ids[0]), order.index(ids[-1])
    ranges.append(ByteRange(1 + first, 1 + last - first))
  with locks.folder_lock(sweep.folder, *ranges):
    yield


def prepare(sweep: Sweep, overwrite: bool = False, *, extend: bool = True) -> None:
  """Creates the folder or prepares it for resuming; the caller must hold the folder's lock.

  `overwrite` and `extend` are those of `sweep_folder.check_folder`.
  """
  # Check again under the lock, because another sweep may have taken the folder since the first
  # check.
  sweep_folder.check_folder(sweep.folder, sweep.configuration, overwrite, extend=extend)
  lines = as_flagfile(sweep.configuration, sweep.input_flags)
  sweep_folder.prepare_folder(sweep.folder, sweep.configuration, about(sweep), lines, overwrite)


def prepare_shared(sweep: Sweep) -> None:
  """Calls `prepare` under a lock of its own, because shards or workers may call it concurrently.

  None of them may change which runs the folder holds, because that moves the runs' locks.
  """
  with locks.file_lock(sweep.folder / sweep_folder.PREPARE_LOCK, wait=True):
    prepare(sweep, extend=False)


def about(sweep: Sweep) -> dict[str, object]:
  """Returns the entries of `sweep.json` other than the configuration: runs, task, environment."""
  corpus, data = sweep.corpus, sweep.data_file
  return {
    "runs": list(sweep.ids),
    "tasks": [
      {
        "task": name,
        "sequence_length": length,
        "loss_unit": tasks.train.unit,
        "baseline": tasks.train.baseline,
      }
      for (name, length), tasks in {key[:2]: tasks for key, tasks in sweep.tasks.items()}.items()
    ],
    "no_effect": list(sweep.no_effect),
    "selected": list(sweep.selected),
    "corpus": corpus
    and {
      "name": corpus.name,
      "sha256": corpus.sha256,
      "characters": len(corpus.text),
      "vocabulary_size": corpus.vocabulary.size,
    },
    **({} if data is None else {"data_file": _about_data(data)}),
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "devices": [str(device) for device in sweep.layout.devices],
    "data_parallel": sweep.layout.data_parallel,
    "runs_per_device": sweep.layout.runs_per_device,
    "remat": sweep.remat,
    "matmul_precision": backend.MATMUL_PRECISION,
    **origins.here(),
  }


def _about_data(data: DataFile) -> dict[str, object]:
  return {
    "name": data.name,
    "sha256": data.sha256,
    "sequences": len(data.train.xs),
    "held_out_sequences": len(data.held_out.xs),
    "targets": "every step" if data.every_step else "last step",
    "output_size": data.output_size,
    "vocabulary_size": data.vocabulary_size,
  }
