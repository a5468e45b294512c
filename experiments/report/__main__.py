"""Writes one HTML page with interactive figures and tables of sweeps.

  python -m experiments.report results/gradient_decay
  python -m experiments.report FOLDER... --output=report.html
  python -m experiments.report FOLDER --follow

The page needs no network and no other file. Several folders are shown side by side: the folder is
one more setting, by which lines are colored and runs selected. The sweeps may be unfinished.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.cli import command_line, flag_table, parsers, paths, plugins
from experiments.cli.flag_table import Flag
from experiments.runtime import exits, files
from experiments.sweep.records import run_files
from experiments.sweep.records.sweep_folder import read_sweep

TABLE = (
  Flag(
    "output",
    None,
    str,
    "File for the page; if not given, report.html in the first FOLDER.",
  ),
  Flag(
    "follow",
    "false",
    None,
    "Write the page again whenever a run ends, until all have. An open page reloads itself.",
  ),
  Flag(
    "interval",
    "10",
    parsers.integer("interval"),
    "With --follow, seconds between checks of the folder, and between reloads of the page.",
  ),
  *plugins.TABLE,
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Writes the page of the sweeps in the folders that the arguments name."""
  with command_line.errors_in_one_line("a folder could not be read or written"):
    folders, target = _resolve(arguments)
    if flags.FLAGS.follow:
      _follow(folders, target)
      return
    unfinished, total = _write(folders, target)
    if unfinished:
      exits.warn(
        f"{unfinished} of {total} runs are unfinished, and missing from the page. --follow adds "
        "them as they end."
      )
  print(target)


def _resolve(arguments: Sequence[str]) -> tuple[list[Path], Path]:
  """Returns the folders to read, and the file to write."""
  if not arguments:
    raise ValueError("Name at least one FOLDER: python -m experiments.report FOLDER...")
  folders = list(dict.fromkeys(paths.path("FOLDER", text) for text in arguments))
  name = flags.FLAGS.output
  if name == "":
    raise ValueError("--output must name a file, got ''.")
  target = folders[0] / "report.html" if name is None else paths.path("--output", name)
  if target.is_dir():
    raise ValueError(f"--output must name a file, got the folder {target}.")
  files.check_replaceable(target)
  for folder in folders:
    if not (folder / "sweep.json").is_file():
      raise ValueError(f"FOLDER must hold a sweep, got {folder}, which holds no sweep.")
  if importlib.util.find_spec("plotly") is None:
    raise ValueError(
      "The page needs the package plotly; in the clone: pip install -e '.[experiments]'."
    )
  return folders, target


def _write(folders: Sequence[Path], target: Path, interval: int | None = None) -> tuple[int, int]:
  """Writes the page of the runs that are done; returns the numbers of unfinished and of all runs.

  The page reloads itself every `interval` seconds while there are any.
  """
  # Imported here because loading xarray and plotly takes a second, which would delay errors.
  from experiments.report import sources
  from experiments.report.contents import contents
  from experiments.report.page import page

  found = [sources.read(folder) for folder in folders]
  unfinished = sum(source.unfinished for source in found)
  files.write_text(target, page(contents(found, interval if unfinished else None)))
  return unfinished, sum(len(source.states) for source in found)


def _follow(folders: Sequence[Path], target: Path) -> None:
  """Writes the page whenever a run ends, until all runs have."""
  exits.say(f"Waiting for runs to end. Press Ctrl-C to stop; {target} is kept.")
  written = None
  while True:
    every = [_statuses(folder) for folder in folders]
    ended = [{name: s for name, s in own.items() if s in run_files.ENDED} for own in every]
    # A page needs a run that is done. If all have failed, reading them says so.
    if ended != written and (
      ended == every or all({*run_files.DONE} & {*o.values()} for o in ended)
    ):
      written = ended
      unfinished, total = _write(folders, target, flags.FLAGS.interval)
      note = f": {unfinished} of {total} runs are unfinished." if unfinished else ""
      print(f"{target}{note}", flush=True)
      if not unfinished:
        return
    time.sleep(flags.FLAGS.interval)


def _statuses(folder: Path) -> dict[str, str]:
  """Returns the status of each run, without checking the run's records, which takes longer."""
  found = {}
  for name in read_sweep(folder)["runs"]:
    try:
      found[name] = str(files.read_json(folder / "runs" / name / "status.json").get("status"))
    except (OSError, ValueError):
      found[name] = ""
  return found


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
