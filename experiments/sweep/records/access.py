"""Who may work in a sweep's folder at the same time, and how each of them begins.

Byte 0 of `.lock` stands for the folder as a whole, byte 1 + i for its i-th run in group order. One
who works alone holds all; a shard shares byte 0 and holds its runs; the driver of an engine holds
byte 0, each of its workers the runs that it trains.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.runtime import backend, locks, provenance
from experiments.runtime.locks import Span
from experiments.sweep.config import grid
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import folder as sweep_folder


def runs_of(sweep: Sweep) -> list[str]:
  """The runs that this process answers for: all, or those of its shard.

  A shard has a contiguous part of them in group order, so that it compiles few programs.
  """
  if sweep.shard is None:
    return list(sweep.ids)
  order = _in_group_order(sweep)
  index, count = sweep.shard.index, sweep.shard.count
  first, last = (len(order) * i // count for i in (index, index + 1))
  return order[first:last]


def _in_group_order(sweep: Sweep) -> list[str]:
  groups = grid.groups(sweep.ids.values())
  return [sweep.names[run] for runs in groups.values() for run in runs]


@contextlib.contextmanager
def with_workers(folder: Path) -> Iterator[None]:
  """Nobody else works in the folder meanwhile, except for workers that begin from now on."""
  # Those of a driver that died may still be alive.
  with locks.held_on(folder):
    pass
  with locks.held_on(folder, Span(0, 1)):
    yield


@contextlib.contextmanager
def beside_others(sweep: Sweep, ids: Sequence[str], *, worker: bool = False) -> Iterator[None]:
  """Nobody else trains these runs meanwhile, which follow one another in group order."""
  spans = [] if worker else [Span(0, 1, shared=True)]
  if ids:
    order = _in_group_order(sweep)
    first, last = order.index(ids[0]), order.index(ids[-1])
    spans.append(Span(1 + first, 1 + last - first))
  with locks.held_on(sweep.folder, *spans):
    yield


def prepare(sweep: Sweep, overwrite: bool = False) -> None:
  """Makes the folder ready, for one who works alone."""
  # Once more: it may be another's since.
  sweep_folder.check_folder(sweep.folder, sweep.configuration, overwrite)
  lines = grid.flagfile(sweep.settings, sweep.axes, sweep.options)
  sweep_folder.prepare_folder(sweep.folder, sweep.configuration, about(sweep), lines, overwrite)


def prepare_beside_others(sweep: Sweep) -> None:
  """Makes the folder ready, where others may do so at the same moment."""
  with locks.held(sweep.folder / sweep_folder.PREPARING, wait=True):
    prepare(sweep)


def about(sweep: Sweep) -> dict[str, Any]:
  """What else a reader of the records must know."""
  corpus = sweep.corpus
  return {
    "runs": list(sweep.ids),
    "task": {"loss_unit": sweep.task.unit, "baseline": sweep.task.baseline},
    "corpus": corpus
    and {
      "name": corpus.name,
      "sha256": corpus.sha256,
      "characters": len(corpus.text),
      "vocabulary_size": corpus.vocabulary.size,
    },
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": provenance.versions((*provenance.PACKAGES, "xarray")),
    "devices": [str(device) for device in sweep.layout.devices],
    "data_parallel": sweep.layout.data_parallel,
    "runs_per_device": sweep.layout.runs_per_device,
    "matmul_precision": backend.MATMUL_PRECISION,
    "git": provenance.git(),
  }
