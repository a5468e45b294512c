"""The commands that use `rnn_jax`: sweeps, models of text, the benchmark; see README.md."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from experiments.cli import help_pages

if TYPE_CHECKING:
  from pathlib import Path

  import xarray as xr

# `python -m experiments.NAME` imports this package before the command's own modules, which take
# seconds to import. Meanwhile, Ctrl-C ends the process at once. KeyboardInterrupt would print a
# traceback, or abort the process while jax is being imported.
if sys.argv[0] == "-m":
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  if help_pages.is_asked(sys.argv[1:]):
    # The interpreter's own arguments end with the name of the module, or with `-mNAME`.
    help_pages.show(sys.orig_argv[-len(sys.argv)].removeprefix("-m"))


def open_sweep(folder: str | Path, partial: bool = False) -> xr.Dataset:
  """Returns the records of a sweep as one self-describing xarray dataset.

  It holds the norms and measures, with dimensions (run, step, layer, …), and the metrics, such as
  the loss, with dimensions (run, update). Each variable has a `long_name`, and `units` if it holds
  numbers; most have a `description` of conventions, such as the meaning of NaN. Each setting is a
  coordinate along `run`, so `data.sel(cell="lstm", depth=2)` returns the runs of a network. The
  attributes say what `sweep.json` says: task, text, versions, git commit, devices. Runs that failed
  are left out.

  Args:
    folder: the sweep's folder.
    partial: whether the sweep may be unfinished. The dataset then holds the runs that are done.
  Raises:
    ValueError: if the folder holds no sweep, if a run is unfinished and `partial` is False, if no
      run is done, or if a record is damaged.
  """
  from experiments.sweep.records import dataset

  return dataset.open_sweep(folder, partial)
