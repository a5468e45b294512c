"""Draws the figures of sweeps from their records.

  python -m experiments.plot results/gradient_decay
  python -m experiments.plot FOLDER... --output_dir=FOLDER --format=pdf --width=3.25 --band=ci95

The figures of one sweep are written to `figures` in its folder. The runs of several sweeps are
drawn as if one sweep had made them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from absl import flags

from experiments.cli import command_line, flag_table, parsers, paths, plugins
from experiments.cli.flag_table import Flag
from experiments.plotting import figure_flags, rc_file
from experiments.plotting.lines import BANDS
from experiments.runtime import exits, files
from experiments.sweep.figures import gradients as figures
from experiments.sweep.figures import selection
from experiments.sweep.figures.measure_figures import undrawn
from experiments.sweep.figures.panels import Look, facets
from experiments.sweep.records import gathered, origins, run_files, sweep_folder, united
from experiments.sweep.records.run_files import Status
from rnn_jax import checks

TABLE = (
  *flag_table.grouped(
    "What is drawn",
    (
      Flag(
        "select",
        "none",
        selection.parse,
        "Draw only runs with these values, as NAME=VALUE,VALUE. NAME is a setting or a cell "
        "option; values are written as in the sweep's flags. Repeatable.",
        "repeated",
      ),
      Flag(
        "figure",
        "all",
        parsers.several("figure", str),
        "Figures to draw, as a comma list, or all: gradient_decay, gradient_by_truncation, "
        "depth_by_time, training, measures by name, and figures that --import registers.",
      ),
      Flag(
        "facet",
        "auto",
        str,
        "Setting that distinguishes rows of panels; auto for the cell, if other settings "
        "distinguish lines.",
      ),
      Flag(
        "band",
        "minmax",
        parsers.choice("band", BANDS),
        "What lines and bands show of the seeds: minmax, the median between minimum and maximum; "
        "ci95, the mean with its 95 % t interval; std, the mean ± the standard deviation.",
      ),
      Flag(
        "partial", "false", None, "Draw the runs that are done, even if the sweep is unfinished."
      ),
    ),
  ),
  *flag_table.grouped(
    "How it is drawn",
    (
      figure_flags.WIDTH,
      figure_flags.FORMAT,
      Flag(
        "rc",
        None,
        str,
        "matplotlibrc file, applied over the figures' style. It does not change the colors, "
        "markers and widths of lines.",
      ),
      Flag(
        "output_dir",
        None,
        str,
        "Folder for the figures; if not given, the folder figures in FOLDER. Must be given for "
        "several FOLDERs.",
      ),
    ),
  ),
  *plugins.TABLE,
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Draws the sweeps in the folders that the arguments name."""
  with command_line.errors_in_one_line("a file or folder could not be read or written"):
    folders, target = _resolve(arguments)
    files.check_no_links(target)
    try:
      gradients, metrics, states = united.read(folders, flags.FLAGS.partial)
    except gathered.UnfinishedError as error:
      raise ValueError(f"{error} (or draw the runs that are done: --partial)") from None
    gradients, metrics = selection.select(gradients, metrics, flags.FLAGS.select or ())
    abouts = [sweep_folder.read_sweep(folder) for folder in folders]
    metrics = metrics.assign_attrs(gathered.task_attributes(metrics, abouts))
    written = _draw(gradients, metrics, target)
    _warn(abouts, gradients, states)
  print("\n".join(map(str, written)))


def _resolve(arguments: Sequence[str]) -> tuple[list[Path], Path]:
  """Returns the folders to read, and the folder to write."""
  if not arguments:
    raise ValueError("Name the FOLDER of a sweep: python -m experiments.plot FOLDER...")
  folders = list(dict.fromkeys(paths.path("FOLDER", text) for text in arguments))
  name = flags.FLAGS.output_dir
  if name == "":
    raise ValueError("--output_dir must name a folder, got ''.")
  if name is None and len(folders) > 1:
    raise ValueError(f"--output_dir must be given for several FOLDERs, got {len(folders)}.")
  return folders, folders[0] / "figures" if name is None else paths.path("--output_dir", name)


def _draw(gradients: xr.Dataset, metrics: xr.Dataset, target: Path) -> list[Path]:
  """Writes the figures to `target`, as the flags say; returns the paths of the files."""
  given = flags.FLAGS
  makers = figures.figure_makers(gradients)
  names = None if given.figure == ("all",) else given.figure
  for name in names or ():
    checks.choice("--figure", name, makers, plugins.IMPORT_HINT)
  facet = None if given.facet == "auto" else given.facet
  if facet is not None:
    checks.choice("--facet", facet, [*facets(gradients), "auto"])
  look = Look(facet, given.band, given.width)
  with (
    contextlib.nullcontext()
    if given.rc is None
    else rc_file.applied("--rc", paths.path("--rc", given.rc))
  ):
    return figures.save_all(gradients, metrics, target, names, look, given.format)


def _warn(
  abouts: Sequence[Mapping[str, Any]], gradients: xr.Dataset, states: Mapping[str, Status]
) -> None:
  """Prints which runs and measures the figures lack, and whether different code made the runs."""
  missing = sum(state.get("status") not in run_files.ENDED for state in states.values())
  if missing:
    exits.warn(f"{missing} of {len(states)} runs are unfinished, and missing from the figures.")
  if flags.FLAGS.figure == ("all",):
    for name, dims in undrawn(gradients).items():
      exits.warn(f"no figure shows {name}, which has several dimensions: {', '.join(dims)}.")
    names = ",".join(dict.fromkeys(n for a in abouts for n in plugins.missing(a["configuration"])))
    if names:
      exits.warn(f"figures and labels of {names} are missing; pass --import={names} to have them.")
  drawn = {name: states[name] for name in gradients["run"].values.tolist()}
  origins.warn_if_mixed(abouts, drawn)


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
