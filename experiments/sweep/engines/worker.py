"""Workers: processes that train the runs of one group each, as an engine starts them.

A worker resolves the sweep anew from the driver's flags, and works in the sweep's folder as it sees
it. Where that is the driver's own, a worker that takes the place of one that died goes on from its
checkpoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments.runtime import backend, compilation_cache
from experiments.sweep.config import flags as sweep_flags
from experiments.sweep.config import grid
from experiments.sweep.config.sweep import Sweep, resolve
from experiments.sweep.records import access
from experiments.sweep.records import folder as sweep_folder
from experiments.sweep.training import train as training
from rnn_jax.checkpoints import difference

_SAME = ("devices", "data_parallel", "runs_per_device", "compilation_cache", "checkpoint_every")


class Part(NamedTuple):
  """What a worker is asked to do; plain data.

  Attributes:
    flags: of the sweep, as on a command line.
    configuration: what the sweep must come to.
    ids: of the runs to train.
    group: of all runs of their group.
    cpus, gpus: that the worker has.
  """

  flags: list[str]
  configuration: dict[str, Any]
  ids: list[str]
  group: list[str]
  cpus: int
  gpus: int


def parts(sweep: Sweep, ids: Sequence[str]) -> list[Part]:
  """The driver's: a part for each group that holds some of the runs."""
  values = flags.FLAGS
  lines = grid.flagfile(sweep.settings, sweep.axes, sweep.options).splitlines()
  lines.append(f"--output_dir={sweep.folder.absolute()}")
  lines += [f"--{name}={values[name].value}" for name in _SAME if values[name].value is not None]
  about = lines, sweep.configuration
  left = set(ids)
  found = []
  for runs in grid.groups(sweep.ids.values()).values():
    group = [sweep.names[run] for run in runs]
    wanted = [name for name in group if name in left]
    if wanted:
      found.append(Part(*about, wanted, group, values.cpus_per_task, values.gpus_per_task))
  return found


def train(part: Part, stop: Callable[[], bool]) -> Sweep:
  """A worker's: trains the runs, in a process that has not used jax, until all is done or it stops.

  Returns:
    The sweep, as it is here.
  Raises:
    ValueError: the flags do not come to the driver's sweep here, or the runs are trained elsewhere.
    OSError: the folder cannot be read or written.
  """
  backend.configure(part.cpus)
  if not part.gpus:
    jax.config.update("jax_platforms", "cpu")
  sweep = _resolve(part)
  compilation_cache.use(flags.FLAGS.compilation_cache)
  with access.beside_others(sweep, part.group, worker=True):
    access.prepare_beside_others(sweep)
    left = [name for name in part.ids if not sweep_folder.has_ended(sweep.folder, name)]
    with contextlib.suppress(training.Stopped):
      training.train(sweep, left, stop, lambda *_: None)
  return sweep


def _resolve(part: Part) -> Sweep:
  sweep_flags.define()
  try:
    flags.FLAGS(["worker", *part.flags])
    sweep = resolve([])
  except (flags.Error, TypeError) as error:
    raise ValueError(str(error)) from None
  found = difference(sweep.configuration, part.configuration)
  if found is not None:
    raise ValueError(f"A worker must resolve the same sweep as its driver, but its {found}.")
  return sweep


def lacking(sweep: Sweep, ids: Sequence[str]) -> list[str]:
  """Those of the runs that have neither ended nor failed."""
  folder = sweep.folder
  return [
    n for n in ids if not (sweep_folder.has_ended(folder, n) or sweep_folder.has_failed(folder, n))
  ]


class Follower:
  """The driver's: tells of the runs that have ended in its folder since it looked before."""

  def __init__(self, sweep: Sweep, ids: Sequence[str], news: training.News):
    self._sweep = sweep
    self._left = list(ids)
    self._news = news

  def __call__(self) -> None:
    """Looks, and tells."""
    ended = {name for name in self._left if sweep_folder.has_ended(self._sweep.folder, name)}
    for name in ended:
      self._news(self._sweep.ids[name], "training", 1.0, None)
    self._left = [name for name in self._left if name not in ended]
