"""Times our recurrent layers and those of other libraries, interleaved in one process.

  python -m experiments.benchmark --quick

All libraries get the same params and inputs. Before any of them is timed, its outputs and gradients
are compared with ours.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.live import Live

from experiments.benchmark import (
  cases,
  cell_times,
  estimator_times,
  growth,
  layer_times,
  machine,
  report,
  sweep_times,
  tables,
  timing,
)
from experiments.benchmark.cases import Row, Shape
from experiments.benchmark.implementations import BASELINES, OURS
from experiments.benchmark.targets import Results
from experiments.cli import command_line, flag_table, paths
from experiments.cli.flag_table import Flag, grouped
from experiments.cli.parsers import choice, integer, several
from experiments.runtime import exits, files, provenance

SHAPES = "16x100x32x64,32x128x128x128,64x100x123x320,32x128x256x256,16x1024x768x768,1x256x128x128"
QUICK_SHAPES = (Shape(16, 100, 32, 64),)


def _shape(text: str) -> Shape:
  """Returns the shape that the text BxTxDxH describes."""
  sizes = text.split("x")
  if len(sizes) != 4 or not all(size.isdecimal() and 0 < int(size) < 2**31 for size in sizes):
    raise ValueError(f"shape must be BxTxDxH, four integers from 1, got '{text}'.")
  return Shape(*map(int, sizes))


TABLE = (
  *grouped(
    "What is timed",
    (
      Flag(
        "cell",
        ",".join(cases.NUM_GATES),
        several("cell", choice("cell", cases.NUM_GATES)),
        f"Cells to compare with the baselines, as a comma list: {', '.join(cases.NUM_GATES)}.",
        "list",
      ),
      Flag(
        "shape",
        SHAPES,
        several("shape", _shape),
        "Shapes BxTxDxH, as a comma list: batch size, steps, input size, hidden size.",
        "list",
      ),
      Flag(
        "depth",
        "1,3",
        several("depth", integer("depth")),
        "Numbers of layers, as a comma list.",
        "list",
      ),
      Flag(
        "baselines",
        ",".join(BASELINES),
        several("baselines", choice("baseline", BASELINES)),
        f"Implementations to compare with, as a comma list: {', '.join(BASELINES)}. Those not "
        "installed are left out.",
        "list",
      ),
      Flag(
        "quick",
        "false",
        None,
        "Time one small shape at depth 1 only; takes less than a minute.",
      ),
      Flag(
        "every_cell",
        "true",
        None,
        "Also time a step of each of our cells; never with --quick.",
      ),
      Flag(
        "estimators",
        "true",
        None,
        "Also time every gradient estimator; never with --quick.",
      ),
      Flag(
        "growth",
        "true",
        None,
        "Also measure time, compile time and memory as the numbers of runs, time steps, hidden "
        "units and layers grow; never with --quick.",
      ),
      Flag("sweep", "true", None, "Also time the reference sweep; never with --quick."),
      Flag(
        "sweep_flags",
        "",
        str,
        "More flags for the timed sweep, separated by spaces; must not change what it computes.",
      ),
    ),
  ),
  *grouped(
    "The machine",
    (
      Flag(
        "threads",
        "all",
        integer("threads", none="all"),
        "Threads of each implementation: a number, or all for one per core.",
      ),
      Flag(
        "instruction_set",
        machine.NATIVE,
        choice("instruction_set", (machine.NATIVE, machine.AVX2)),
        "native, or AVX2 to forbid wider vectors on a processor with AVX-512; the results are then "
        "in the folder AVX2 of --output_dir.",
      ),
    ),
  ),
  *grouped(
    "Output",
    (Flag("output_dir", "results/benchmark", str, "Folder for the results and pictures."),),
  ),
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)
  flags.DEFINE_alias("peers", "baselines")  # the flag's name in version 0.1


def main(arguments: list[str]) -> None:
  """Runs the benchmark, prints its tables, and writes `benchmark.json`, tables and pictures."""
  try:
    threads, folder, other = _resolve(arguments)
  except (ValueError, TypeError) as error:
    exits.fail(str(error))
  values, console = flags.FLAGS, Console()
  if not console.is_terminal:
    console = Console(width=180)
  results = Results(machine.configure(threads, values.instruction_set))
  for line in machine.describe(results.machine):
    console.print(line)
  with command_line.errors_in_one_line("--output_dir could not be written"):
    folder.mkdir(parents=True, exist_ok=True)
    _measure_layers(console, results, folder, other)
    if not values.quick:
      results.remat.extend(layer_times.measure_remat())
      report.print_remat(console, results.remat)
    if values.every_cell and not values.quick:
      results.cells.extend(cell_times.measure_cells())
      console.print(tables.every_cell(results.cells).rich())
    if values.estimators and not values.quick:
      results.estimators.extend(estimator_times.measure())
      console.print(tables.estimators(results.estimators).rich())
    if values.growth and not values.quick:
      results.growth.extend(growth.measure())
      growth.show(console, results.growth)
      with files.replacing(folder / "growth.png") as draft:
        growth.picture(results.growth).savefig(draft, format="png", dpi=150)
    if values.sweep and not values.quick:
      for time in sweep_times.measure(provenance.cores(), values.sweep_flags.split()):
        results.sweep.append(time)
        report.print_sweep_time(console, time)
    report.print_summary(console, results)
    _save(results, folder, other)
    with files.replacing(folder / "benchmark.png") as draft:
      report.picture(results).savefig(draft, format="png", dpi=150)
  console.print(
    f"All numbers are in {folder / 'benchmark.json'}, the first tables as Markdown in "
    f"{folder / 'tables.md'}, and the pictures in the same folder."
  )


def _measure_layers(console: Console, results: Results, folder: Path, other: Path) -> None:
  """Measures all rows; prints the summary, which grows row by row, and then each row's table."""
  values = flags.FLAGS
  seconds = layer_times.QUICK_SECONDS if values.quick else layer_times.SECONDS
  with Live(console=console, auto_refresh=False, transient=True) as live:
    for row in _rows():
      results.layers.extend(layer_times.measure(row, [OURS, *values.baselines], seconds))
      results.limits[row] = timing.dependency_limit(row)
      found = tables.runs(results, other)
      summary = tables.summary(found, list(map(str, results.limits))).rich()
      live.update(summary, refresh=True)
      _save(results, folder, other)
  console.print(summary)
  for sentence in tables.ranges(found):
    console.print(sentence)
  for row, limit in results.limits.items():
    report.print_row(console, row, [m for m in results.layers if m.row == row], limit)


def _save(results: Results, folder: Path, other: Path) -> None:
  files.write_text(folder / "benchmark.json", json.dumps(results.as_json(), indent=1) + "\n")
  files.write_text(folder / "tables.md", tables.markdown(results, tables.runs(results, other)))


def _rows() -> list[Row]:
  """Returns the rows that the flags select; without `--shape`, large rows have depth 1."""
  values = flags.FLAGS
  shapes, depths = values.shape, values.depth
  if values.quick:
    shapes = shapes if values["shape"].present else QUICK_SHAPES
    depths = depths if values["depth"].present else (1,)
  rows = [Row(c, shape, d) for shape in shapes for d in depths for c in values.cell]
  if values["shape"].present:
    return rows
  return [row for row in rows if row.depth == 1 or not layer_times.is_large(row)]


def _resolve(arguments: list[str]) -> tuple[int, Path, Path]:
  """Returns the number of threads, the output folder, and `benchmark.json` of the other set.

  A run that is restricted to AVX2 writes to the folder AVX2 of `--output_dir`.

  Raises:
    ValueError: if a flag is invalid, there are arguments that are not flags, or a file to be
      written is a link, folder, device or pipe.
  """
  command_line.check_no_arguments(arguments)
  values = flags.FLAGS
  machine.check_instruction_set(values.instruction_set)
  native = paths.folder("--output_dir", flags.FLAGS.output_dir)
  folder, other = native, native / machine.AVX2
  if values.instruction_set == machine.AVX2:
    folder, other = other, folder
  for name in ("benchmark.json", "benchmark.png", "growth.png", "tables.md"):
    files.check_replaceable(folder / name)  # now, not after the measurements
  cores = len(provenance.cores())
  threads = cores if values.threads is None else values.threads
  if threads > cores:
    raise ValueError(f"--threads must be at most the {cores} cores of this process, got {threads}.")
  return threads, folder, other / "benchmark.json"


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
