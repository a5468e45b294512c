"""Times our recurrent layers and those of other libraries, interleaved in one process.

  python -m experiments.benchmark --quick

All libraries get the same params and inputs. Before any of them is timed, its outputs and gradients
are compared with ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jaxtyping import PyTree
from rich.console import Console

from experiments.benchmark import (
  cases,
  cell_times,
  growth,
  implementations,
  report,
  sweep_times,
  timing,
)
from experiments.benchmark.cases import (
  FORWARD,
  GRADIENT,
  MEASURES,
  NORMS,
  TRAINING,
  Implementation,
  Row,
  Shape,
)
from experiments.benchmark.implementations import BASELINES, OURS
from experiments.benchmark.jax_baselines import NotAvailable
from experiments.benchmark.targets import Machine, Measurement, Results
from experiments.cli import command_line, parsers
from experiments.runtime import backend, exits, files, provenance

SHAPES = "16x100x32x64,32x128x128x128,64x100x123x320,32x128x256x256,16x1024x768x768,1x256x128x128"
QUICK_SHAPES = (Shape(16, 100, 32, 64),)
REMAT_ROW = Row("lstm", Shape(8, 4096, 128, 128), 1)
PACKAGES = ("rnn_jax", "jax", "flax", "torch", "dm-haiku", "equinox", "keras", "numpy")
TOLERANCE = 1e-4  # largest accepted `difference` of a baseline's float32 results from ours

# The measures of a group are timed together, interleaved. Each group has a budget of seconds.
_GROUPS = ((FORWARD,), (GRADIENT, NORMS), (TRAINING,))
_SECONDS = {FORWARD: 0.5, GRADIENT: 2.4, TRAINING: 0.6}  # per row, for all implementations together
_QUICK_SECONDS = {FORWARD: 0.4, GRADIENT: 1.5, TRAINING: 0.4}
# A row is large if its forward and backward pass need more floating-point operations than this. So
# that the benchmark takes only a quarter of an hour, the default table has large rows at depth 1
# only. For large rows and rows with a depth above 1, only the gradient is timed, with and without
# norms.
_LARGE = 1e11


def define_flags() -> None:
  """Defines the flags of the benchmark."""
  compared = ",".join(cases.NUM_GATES)
  cell = parsers.choice("cell", cases.NUM_GATES)
  parsers.define_list("cell", compared, cell, f"Cells to compare with the baselines: {compared}.")
  parsers.define_list(
    "shape", SHAPES, _shape, "Shapes BxTxDxH: batch size, steps, input size, hidden size."
  )
  parsers.define_list("depth", "1,3", parsers.integer("depth"), "Numbers of layers.")
  parsers.define_list(
    "baselines",
    ",".join(BASELINES),
    parsers.choice("baseline", BASELINES),
    f"Implementations to compare with: {', '.join(BASELINES)}. Those not installed are left out.",
  )
  flags.DEFINE_alias("peers", "baselines")  # the flag's name in version 0.1
  parsers.define(
    "threads",
    "all",
    parsers.integer("threads", none="all"),
    "Threads of each implementation: a number, or all for one per core.",
  )
  flags.DEFINE_string("output_dir", "results/benchmark", "Folder for the results and the picture.")
  flags.DEFINE_boolean(
    "quick", False, "Time one small shape at depth 1 only; takes less than a minute."
  )
  flags.DEFINE_boolean(
    "every_cell", True, "Also time a step of every cell, ours alone; not with --quick."
  )
  flags.DEFINE_boolean("growth", True, "Also measure growing sizes, ours alone; not with --quick.")
  flags.DEFINE_boolean("sweep", True, "Also time the reference sweep; not with --quick.")
  flags.DEFINE_string(
    "sweep_flags",
    "",
    "More flags for the timed sweep, separated by spaces; must not change what it computes.",
  )


def main(arguments: list[str]) -> None:
  """Runs the benchmark, prints its tables, and writes `benchmark.json` and its pictures."""
  try:
    threads, folder = _resolve(arguments)
  except (ValueError, TypeError) as error:
    exits.fail(str(error))
  values, console = flags.FLAGS, Console()
  if not console.is_terminal:
    console = Console(width=180)
  results = Results(_configure(threads))
  report.print_machine(console, results.machine)
  with command_line.errors_in_one_line("--output_dir could not be written"):
    folder.mkdir(parents=True, exist_ok=True)
    for row in _rows():
      measurements = list(
        measure(row, [OURS, *values.baselines], _QUICK_SECONDS if values.quick else _SECONDS)
      )
      results.layers.extend(measurements)
      results.limits[row] = timing.dependency_limit(row)
      report.print_row(console, row, measurements, results.limits[row])
      _save(results, folder)
    if not values.quick:
      results.remat.extend(measure_remat())
      report.print_remat(console, results.remat)
    if values.every_cell and not values.quick:
      results.cells.extend(cell_times.measure_cells())
      report.print_cells(console, results.cells)
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
    _save(results, folder)
    with files.replacing(folder / "benchmark.png") as draft:
      report.picture(results).savefig(draft, format="png", dpi=150)
  console.print(f"All numbers are in {folder / 'benchmark.json'}, the pictures in the same folder.")


def _save(results: Results, folder: Path) -> None:
  files.write_text(folder / "benchmark.json", json.dumps(results.as_json(), indent=1) + "\n")


def measure(row: Row, names: Sequence[str], seconds: dict[str, float]) -> Iterator[Measurement]:
  """Compares the results of all implementations with ours, then times them interleaved.

  Args:
    row: the layers: their cell, shape and depth.
    names: names of the implementations, ours first.
    seconds: the time budget of each group of measures; the key is the group's first measure.
  Yields:
    One measurement for each implementation and measure. For an implementation that cannot be timed,
    a single measurement without times, whose note gives the reason.
  """
  ready: dict[str, Implementation] = {}
  notes: dict[str, str] = {}
  for name, built in _compared(row, names):
    if isinstance(built, Implementation):
      ready[name] = built
      notes[name] = built.other and f"different function: {built.other}"
    else:
      yield Measurement(row, name, GRADIENT, note=built)

  for group in _GROUPS:
    programs = {
      (name, measure): implementation.programs[measure]
      for name, implementation in ready.items()
      for measure in group
      if measure in implementation.programs
    }
    if not programs:
      continue
    calls = {key: program.call for key, program in programs.items()}
    times = timing.interleave(calls, seconds[group[0]])
    for (name, measure), program in programs.items():
      yield Measurement(
        row,
        name,
        measure,
        times[name, measure],
        program.compile_seconds,
        program.temporaries,
        notes[name],
      )


def _compared(row: Row, names: Sequence[str]) -> Iterator[tuple[str, Implementation | str]]:
  """Yields each name with its implementation, or with the reason it cannot be timed.

  An implementation must give our results to be timed, unless it is marked as computing a different
  function (`Implementation.other`).
  """
  params, xs = cases.data(row)
  measures = (GRADIENT, NORMS) if _is_large(row) or row.depth > 1 else MEASURES
  reference: list[PyTree] = []
  for name in names:
    try:
      built = implementations.build(name, row, params, xs, measures)
    except NotAvailable as reason:
      yield name, str(reason)
      continue
    results = {measure: program.call() for measure, program in built.programs.items()}
    found: list[PyTree] = [built.gradients(results[GRADIENT])]
    if FORWARD in results:
      found.append(built.ys(results[FORWARD]))
    if name == OURS:
      reference = found
    error = difference(found, reference)
    if built.other or error <= TOLERANCE:
      yield name, built
    else:
      yield name, f"differs from ours by {error:.1g}, not timed"


def measure_remat() -> list[Measurement]:
  """Times our gradient over 4096 steps, with and without rematerialization."""
  programs = {
    remat: implementations.gradient_program(REMAT_ROW, remat) for remat in ("none", "sqrt")
  }
  calls = {name: program.call for name, program in programs.items()}
  for call in calls.values():
    call()
  times = timing.interleave(calls, _SECONDS[GRADIENT])
  return [
    Measurement(REMAT_ROW, OURS, name, times[name], p.compile_seconds, p.temporaries)
    for name, p in programs.items()
  ]


def difference(found: PyTree, reference: PyTree) -> float:
  """Returns the largest relative Euclidean distance ‖a − b‖ / ‖b‖ between two pytrees' leaves."""
  leaves = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
  # np.max keeps NaN, which Python's max may drop.
  return float(np.max([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in leaves]))


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
  return [row for row in rows if row.depth == 1 or not _is_large(row)]


def _is_large(row: Row) -> bool:
  return 3 * cases.flops_per_step(row) * row.shape.steps > _LARGE


def _resolve(arguments: list[str]) -> tuple[int, Path]:
  """Returns the number of threads and the output folder.

  Raises:
    ValueError: if a flag is invalid, there are arguments that are not flags, or a file to be
      written is a link, folder, device or pipe.
  """
  command_line.check_no_arguments(arguments)
  values = flags.FLAGS
  folder = command_line.folder("output_dir")
  for name in ("benchmark.json", "benchmark.png", "growth.png"):
    files.check_replaceable(folder / name)  # now, not after the measurements
  cores = len(provenance.cores())
  threads = cores if values.threads is None else values.threads
  if threads > cores:
    raise ValueError(f"--threads must be at most the {cores} cores of this process, got {threads}.")
  return threads, folder


def _shape(text: str) -> Shape:
  """Returns the shape that the text BxTxDxH describes."""
  sizes = text.split("x")
  if len(sizes) != 4 or not all(size.isdecimal() and 0 < int(size) < 2**31 for size in sizes):
    raise ValueError(f"shape must be BxTxDxH, four integers from 1, got '{text}'.")
  return Shape(*map(int, sizes))


def _configure(threads: int) -> Machine:
  """Sets the same number of threads and the same precision in every library.

  Returns:
    A description of the machine.
  """
  if hasattr(os, "sched_setaffinity"):
    # XLA starts one thread for each core that the process may use.
    os.sched_setaffinity(0, provenance.cores()[:threads])
  backend.pin_settings()
  if timing.torch_is_installed():
    from experiments.benchmark import torch_layers  # its docstring says why it is imported here

    torch_layers.configure(threads)
  return {
    "versions": provenance.versions(PACKAGES),
    "device": str(jax.devices()[0].device_kind),
    "cpu": provenance.processor(),
    "threads": threads,
    "load_average": os.getloadavg(),
    "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES"),
    "matmul_precision": backend.MATMUL_PRECISION,
  }


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
