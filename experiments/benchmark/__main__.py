"""Times our recurrent layers against those of other libraries, in one process, interleaved.

  python -m experiments.benchmark --quick

Peers get our weights and inputs; results and gradients are compared before anything is timed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console

from experiments.benchmark import candidates, cell_times, report, sweep_times, timing
from experiments.benchmark.candidates import (
  FORWARD,
  GRADIENT,
  MEASURES,
  NORMS,
  TRAINING,
  Row,
  Shape,
)
from experiments.benchmark.jax_peers import NotAvailable
from experiments.benchmark.targets import Measurement, Results
from experiments.cli import command_line, parsers
from experiments.runtime import exits, provenance

SHAPES = "16x100x32x64,32x128x128x128,64x100x123x320,32x128x256x256,16x1024x768x768,1x256x128x128"
MATMUL_PRECISION = "highest"  # no TF32
QUICK_SHAPES = (Shape(16, 100, 32, 64),)
REMAT_ROW = Row("lstm", Shape(8, 4096, 128, 128), 1)
PACKAGES = ("rnn_jax", "jax", "flax", "torch", "dm-haiku", "equinox", "keras", "numpy")
TOLERANCE = 1e-4  # relative, Euclidean, in float32
_GROUPS = ((FORWARD,), (GRADIENT, NORMS), (TRAINING,))
_SECONDS = {FORWARD: 0.5, GRADIENT: 2.4, TRAINING: 0.6}  # a row, all candidates together
_QUICK_SECONDS = {FORWARD: 0.4, GRADIENT: 1.5, TRAINING: 0.4}
# Operations of a row, forward and backward: above, the default table has depth 1 only. To end in a
# quarter of an hour, gradients alone are timed there, and at depths above 1.
_LARGE = 1e11


def define_flags() -> None:
  """All flags of the benchmark."""
  compared = ",".join(candidates.NUM_GATES)
  cell = parsers.choice("cell", candidates.NUM_GATES)
  parsers.define_list("cell", compared, cell, f"Cells to compare with others': {compared}.")
  parsers.define_list("shape", SHAPES, _shape, "Shapes BxTxDxH: batch, steps, inputs, hidden.")
  parsers.define_list("depth", "1,3", parsers.integer("depth"), "Numbers of layers.")
  others = [name for name in candidates.PEERS if name != "ours"]
  parsers.define_list(
    "peers",
    ",".join(others),
    parsers.choice("peer", others),
    f"Whom to compare with: {', '.join(others)}. Those not installed are left out.",
  )
  parsers.define(
    "threads",
    "all",
    parsers.integer("threads", none="all"),
    "Threads of every candidate. A number, or all, the default: one a core.",
  )
  flags.DEFINE_string("output_dir", "results/benchmark", "Folder for table and picture.")
  flags.DEFINE_boolean("quick", False, "One small shape and depth 1, in under a minute.")
  flags.DEFINE_boolean(
    "every_cell", True, "Time a step of every cell too, ours alone; never with --quick."
  )
  flags.DEFINE_boolean("sweep", True, "Time the reference sweep too; never with --quick.")
  flags.DEFINE_string(
    "sweep_flags",
    "",
    "More flags for the sweep that is timed, space between; none that change what it computes.",
  )


def main(arguments: list[str]) -> None:
  """Runs the benchmark that the flags describe."""
  try:
    threads, folder = _resolve(arguments)
  except (ValueError, TypeError) as error:
    exits.fail(str(error))
  values, console = flags.FLAGS, Console()
  if not console.is_terminal:
    console = Console(width=180)
  results = Results(_configure(threads))
  report.print_machine(console, results.machine)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for row in _rows():
      measurements = list(
        measure(row, ["ours", *values.peers], _QUICK_SECONDS if values.quick else _SECONDS)
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
    if values.sweep and not values.quick:
      for time in sweep_times.measure(provenance.cores(), values.sweep_flags.split()):
        results.sweep.append(time)
        report.print_sweep_time(console, time)
    report.print_summary(console, results)
    _save(results, folder)
    report.picture(results).savefig(folder / "benchmark.png", dpi=150)
  except OSError as error:
    exits.fail(f"--output_dir could not be written: {error}.")
  console.print(f"All numbers are in {folder / 'benchmark.json'}, the picture beside it.")


def _save(results: Results, folder: Path) -> None:
  (folder / "benchmark.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")


def measure(row: Row, names: Sequence[str], seconds: dict[str, float]) -> Iterator[Measurement]:
  """Compares all candidates with ours, then times them, measures of a kind side by side.

  Args:
    row: which layers.
    names: the candidates, `ours` first.
    seconds: for each group of measures that are timed side by side, by its first.
  Yields:
    A measurement for each measure that a candidate has; for one that could not be timed, a
    measurement without times that says why.
  """
  params, xs = candidates.data(row)
  measures = (GRADIENT, NORMS) if _is_large(row) or row.depth > 1 else MEASURES
  ready: dict[str, candidates.Candidate] = {}
  notes: dict[str, str] = {}
  reference: Any = None
  for name in names:
    try:
      candidate = candidates.build(name, row, params, xs, measures)
    except NotAvailable as reason:
      yield Measurement(row, name, GRADIENT, note=str(reason))
      continue
    results = {kind: program.call() for kind, program in candidate.programs.items()}
    found: list[Any] = [candidate.gradients(results[GRADIENT])]
    if FORWARD in results:
      found.append(candidate.ys(results[FORWARD]))
    if name == "ours":
      reference = found
    error = difference(found, reference)
    notes[name] = candidate.other and f"other function: {candidate.other}"
    if not candidate.other and not error <= TOLERANCE:
      yield Measurement(row, name, GRADIENT, note=f"differs from ours by {error:.1g}, not timed")
      continue
    ready[name] = candidate

  for group in _GROUPS:
    programs = {
      (name, measure): candidate.programs[measure]
      for name, candidate in ready.items()
      for measure in group
      if measure in candidate.programs
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


def measure_remat() -> list[Measurement]:
  """Our gradient over 4096 steps, with and without rematerialisation."""
  programs = candidates.remat_programs(REMAT_ROW)
  calls = {name: program.call for name, program in programs.items()}
  for call in calls.values():
    call()
  times = timing.interleave(calls, _SECONDS[GRADIENT])
  return [
    Measurement(REMAT_ROW, "ours", name, times[name], p.compile_seconds, p.temporaries)
    for name, p in programs.items()
  ]


def difference(found: Any, reference: Any) -> float:
  """Largest relative Euclidean distance ‖a − b‖ / ‖b‖ of two pytrees' leaves."""
  leaves = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
  # Not Python's max, which drops NaN.
  return float(np.max([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in leaves]))


def _rows() -> list[Row]:
  """Which rows the flags ask for; the default table leaves out what would take too long."""
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
  return 3 * candidates.flops_per_step(row) * row.shape.steps > _LARGE


def _resolve(arguments: list[str]) -> tuple[int, Path]:
  """Checks everything that can be checked before the first compilation."""
  command_line.check_no_arguments(arguments)
  values = flags.FLAGS
  folder = command_line.folder("output_dir")
  cores = len(provenance.cores())
  threads = cores if values.threads is None else values.threads
  if threads > cores:
    raise ValueError(f"--threads must be at most the {cores} cores of this process, got {threads}.")
  return threads, folder


def _shape(text: str) -> Shape:
  """BxTxDxH."""
  sizes = text.split("x")
  if len(sizes) != 4 or not all(size.isdecimal() and 0 < int(size) < 2**31 for size in sizes):
    raise ValueError(f"shape must be BxTxDxH, four integers from 1, got '{text}'.")
  return Shape(*map(int, sizes))


def _configure(threads: int) -> dict[str, Any]:
  """Gives every library the same threads and precision; returns what to say of the machine."""
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(
      0, provenance.cores()[:threads]
    )  # XLA takes as many threads as it may use cores
  jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION)
  if timing.torch_is_installed():
    from experiments.benchmark import torch_peers

    torch_peers.configure(threads)
  return {
    "versions": provenance.versions(PACKAGES),
    "device": str(jax.devices()[0].device_kind),
    "cpu": provenance.processor(),
    "threads": threads,
    "load_average": os.getloadavg(),
    "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES"),
    "matmul_precision": MATMUL_PRECISION,
  }


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
