"""The commands that use `rnn_jax`: sweeps, models of text, the benchmark; see README.md."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING

from experiments.cli import help_pages

if TYPE_CHECKING:
  from collections.abc import Callable, Mapping
  from pathlib import Path
  from typing import Any

  import xarray as xr
  from matplotlib.figure import Figure

  from experiments.sweep.figures.panels import Look
  from experiments.sweep.measures.measure import Measure
  from experiments.sweep.run_sweep import SweepSettings

# `python -m experiments.NAME` imports this package before the command's own modules, which take
# seconds to import. Meanwhile, Ctrl-C ends the process at once. KeyboardInterrupt would print a
# traceback, or abort the process while jax is being imported.
if sys.argv[0] == "-m":
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  # With --import, the page says what the modules register, so they are imported first.
  if help_pages.is_asked(sys.argv[1:]) and not help_pages.has_imports(sys.argv[1:]):
    help_pages.show(help_pages.command())


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


def run_sweep(
  settings: SweepSettings,
  axes: Mapping[str, Any],
  output_dir: str | Path,
  progress: bool = True,
) -> xr.Dataset:
  """Trains a sweep in this process and returns its records, as `open_sweep` does.

  It does what `python -m experiments.sweep` does: the folder gets the same files, an interrupted
  sweep resumes, and a folder with other runs is extended. On Ctrl-C, it writes a checkpoint and
  raises KeyboardInterrupt. JAX's settings are pinned during the call and restored afterwards.

  If this process has not used JAX yet, each CPU core becomes a device, and on a CPU the records
  equal those of the command bit for bit. If it has, the sweep trains on the devices that JAX has,
  and records may differ by rounding.

  Args:
    settings: all that is neither an axis nor the folder; `SweepSettings()` has the defaults of the
      command's flags.
    axes: {axis: its values, or one value}, such as `{"cell": ["gru", "lstm"], "seed": range(5)}`.
      Options of cells are axes too: `{"activation": "relu", "gru.reset": ["before", "after"]}`.
      None is no truncation, or no clipping. Axes that are left out have their flag's default.
    output_dir: folder for records and figures.
    progress: whether to print the progress and a summary on standard output.
  Raises:
    ValueError, TypeError: if an argument is invalid, the folder holds another sweep, or all runs
      failed. If only some runs failed, a warning says so.
    OSError: if the folder cannot be read or written.
  """
  from experiments.sweep import run_sweep as implementation

  return implementation.run_sweep(settings, axes, output_dir, progress)


def register_measure(name: str, measure: Measure) -> None:
  """Adds a measure of gradient flow, which sweeps then compute with `--measures=NAME`.

  Args:
    name: name of the measure; also that of its figure.
    measure: what it computes, and how tables and figures describe it.
  Raises:
    ValueError: if the name or a variable is taken or no identifier, or the summary is missing.
    TypeError: if `measure` is not a `Measure`, or `measure.compute` not a function.
  """
  from experiments.sweep.measures import table

  table.register_measure(name, measure)


def register_figure(
  draw: Callable[[xr.Dataset, Look], Figure | None],
) -> Callable[[xr.Dataset, Look], Figure | None]:
  """Adds a figure that is drawn after every sweep, and by `experiments.plot`; a decorator.

    @experiments.register_figure
    def my_figure(gradients, look):
      \"\"\"What it shows.\"\"\"

  Args:
    draw: returns the figure, or None if the records lack what it shows. Its arguments are the norms
      and measures of all runs, with axes (run, step, layer, …), and what the user chose about the
      look. Its name is that of the figure's files.
  Returns:
    The function `draw`.
  Raises:
    ValueError: if the name is taken, or there is no docstring.
    TypeError: if `draw` is not a function.
  """
  from experiments.sweep.figures import registered

  return registered.register_figure(draw)


# {name: the module that defines it}; the modules are imported late because they import jax.
_LATE = {
  "Measure": "experiments.sweep.measures.measure",
  "Moment": "experiments.sweep.measures.measure",
  "SweepSettings": "experiments.sweep.run_sweep",
}


def __getattr__(name: str) -> object:
  """Returns one of the classes that are imported at their first use."""
  if name in _LATE:
    return getattr(importlib.import_module(_LATE[name]), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
