"""Reproduces published figures and tables, and checks each against the expected numbers.

  python -m experiments.reproduce --figure=F3
  python -m experiments.reproduce --figure=all --report=experiments/RESULTS.md

The exit status is 0 if all requested figures are reproduced, and 1 otherwise.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.cli import command_line, flag_table, paths
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import choice
from experiments.reproduce import report as figure_records
from experiments.reproduce.figure import Outcome
from experiments.reproduce.figures import FIGURES
from experiments.reproduce.report import Result
from experiments.runtime import backend, compilation_cache, exits, files, provenance
from rnn_jax import checks

ALL = "all"
# Figures that are expected to take longer, in seconds, are skipped.
BUDGETS = {"quick": 10.0, "full": float("inf")}

_NOT_REPRODUCED = 1  # exit status if a requested figure is not reproduced
_PLAIN_WIDTH = 160  # width of the output in characters, if it is not a terminal


TABLE = (
  Flag(
    "figure",
    None,
    str,
    f"Figures to reproduce: {', '.join(FIGURES)}, or {ALL}. A comma list. Repeatable.",
    "repeated",
  ),
  Flag("list", "false", None, "Print a table of the figures, then exit."),
  Flag(
    "budget",
    "full",
    choice("budget", BUDGETS),
    f"quick skips figures that take more than {BUDGETS['quick']:g} seconds; full skips none.",
  ),
  Flag("output_dir", "results/figures", str, "Folder for tables, checks and pictures."),
  Flag(
    "report",
    None,
    str,
    "Markdown file for a report on all figures in the output folder, including earlier runs.",
  ),
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Reproduces the figures that the flags request, and writes a report if `--report` is set."""
  width = None if sys.stdout.isatty() else _PLAIN_WIDTH
  console = Console(width=width, markup=False, highlight=False)
  values = flags.FLAGS
  try:
    wanted, folder, report = _resolve(arguments)
  except ValueError as error:
    exits.fail(str(error))
  if values.list:
    print_list()
    return
  results: dict[str, Result] = {}
  limit = BUDGETS[values.budget]
  long = [name for name in wanted if FIGURES[name].seconds > limit]
  names = [name for name in wanted if name not in long]
  if long:
    console.print(f"Skipped, since they take more than {limit:g} s: {', '.join(long)}.")
  try:
    with command_line.errors_in_one_line("--output_dir or --report could not be read or written"):
      for name in names:
        results[name] = make(name, folder, console)
      if report is not None:
        files.write_text(report, figure_records.report(folder, list(FIGURES)))
  except KeyboardInterrupt:
    exits.interrupted(f"{len(results)} of {len(names)} figures are finished, see {folder}.")
  missed = [name for name, result in results.items() if not result.reproduced]
  if results:
    console.print(
      f"{len(results) - len(missed)} of {len(results)} reproduced"
      + (f", not {', '.join(missed)}" if missed else "")
      + f". Tables, checks and pictures are in {folder}."
    )
  if missed:
    sys.stdout.flush()
    sys.exit(_NOT_REPRODUCED)


def make(name: str, folder: Path, console: Console) -> Result:
  """Runs one figure, prints its table and checks, and writes its files.

  If the figure raises an error, the error is recorded, not raised again, and the figure counts as
  not reproduced.

  Args:
    name: a key of FIGURES.
    folder: folder that holds one folder per figure.
    console: console to print on.
  Raises:
    OSError: if the figure's folder cannot be written.
  """
  figure = FIGURES[name]
  title = f"{name}. {figure.title}"
  console.print(f"{title}\n  {figure.setting}\n  about {figure.seconds} s")
  about = _about()
  start = time.monotonic()
  outcome, drawn, error = None, None, None
  try:
    outcome = figure.run()
    drawn = figure_records.picture(title, outcome)
  except Exception as raised:  # no error may keep the other figures from running
    outcome, error = None, f"{type(raised).__name__}: {' '.join(str(raised).split())}"
  result = Result(outcome, error, time.monotonic() - start)
  figure_records.save(folder, name, figure, result, drawn, about)
  if outcome is not None:
    _print_outcome(console, outcome)
  if error is not None:
    console.print(f"  error: {error}")
  status = figure_records.status(result.reproduced)
  console.print(f"{name}: {status}, {result.seconds:.1f} s\n", style="bold")
  return result


def print_list() -> None:
  """Prints a Markdown table of all figures: name, duration in seconds and title."""
  print("| name | seconds | figure or table |\n|---|---|---|")
  for name, figure in FIGURES.items():
    print(f"| {name} | {figure.seconds} | {figure.title} |")


def _print_outcome(console: Console, outcome: Outcome) -> None:
  """Prints a figure's table, the result of each check, and the notes."""
  table = Table(box=None)
  names = figure_records.columns(outcome.table)
  for name in names:
    table.add_column(name, justify="right")
  for row in outcome.table:
    table.add_row(*(figure_records.shown(row.get(name)) for name in names))
  console.print(table)
  for check in outcome.checks:
    met = "met" if check.met else "NOT MET"
    measured = figure_records.shown(check.measured)
    console.print(f"  {met}: {check.name} = {measured}, expected {check.expected}")
  for note in outcome.notes:
    console.print(f"  note: {note}")


def _resolve(arguments: Sequence[str]) -> tuple[list[str], Path, Path | None]:
  """Checks the flags, and returns the requested figures, the output folder and the report's path.

  Raises:
    ValueError: if a flag is not valid, or a file to be written is a link, folder, device or pipe.
  """
  values = flags.FLAGS
  command_line.check_no_arguments(arguments)
  folder = paths.folder("--output_dir", flags.FLAGS.output_dir)
  if values.report == "":
    raise ValueError("--report must name a file, got ''.")
  report = None if values.report is None else paths.path("--report", values.report)
  asked = [item.strip() for text in values.figure or [] for item in text.split(",")]
  for item in asked:
    checks.choice("figure", item, (*FIGURES, ALL))
  if not asked and report is None and not values.list:
    raise ValueError(f"--figure must name one of {', '.join(FIGURES)}, or be {ALL}.")
  wanted = list(FIGURES) if ALL in asked else [name for name in FIGURES if name in asked]
  for name in wanted:  # now, not after a figure has run
    figure_records.check_folder(folder, name)
  if report is not None:
    files.check_replaceable(report)
  return wanted, folder, report


def _about() -> dict[str, object]:
  """Returns the provenance of the results: start time, versions, device, processor and commit."""
  return {
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": provenance.versions((*provenance.PACKAGES, "xarray", "scipy")),
    "device": str(jax.devices()[0].device_kind),
    "processor": provenance.processor(),
    "cores": len(provenance.cores()),
    "git": provenance.git(),
  }


if __name__ == "__main__":
  backend.configure()
  compilation_cache.use("auto")
  define_flags()
  command_line.run(main)
