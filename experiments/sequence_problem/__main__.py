"""Trains a network on one sequence problem, and evaluates it on held-out examples.

  python -m experiments.sequence_problem --flagfile=many_to_one

The command writes result.json to the output folder, replacing an earlier one. The file holds the
settings, the held-out loss and its baseline, the accuracy (for classifiers of digits, also a
published one), and some examples of the network's answers.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from experiments.cli import command_line, flag_table, paths, plugins, progress
from experiments.cli.flag_table import Flag, grouped
from experiments.networks import cell_options, cell_table
from experiments.runtime import backend, compilation_cache, exits, files, provenance
from experiments.sequence_problem import evaluation
from experiments.sequence_problem import flags as problem_flags
from experiments.sequence_problem.problem import Problem, make_problem
from experiments.sequence_problem.settings import Settings
from experiments.sequence_problem.training import Keys, train

_OUTPUT_DIR = Flag("output_dir", "results/sequence_problem", str, "Folder for result.json.")

TABLE = (
  *problem_flags.TABLE,
  *grouped("Output", (_OUTPUT_DIR,)),
  *grouped("Other commands", (cell_options.LIST_CELLS,)),
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Trains and evaluates the network that the flags describe, on the problem that they name."""
  try:
    with command_line.errors_in_one_line("--output_dir could not be written"):
      if flags.FLAGS.list_cells is not None:
        cell_table.show(flags.FLAGS.list_cells)
        return
      command_line.check_no_arguments(arguments)
      folder = paths.folder("--output_dir", flags.FLAGS.output_dir)
      files.check_replaceable(folder / "result.json")  # now, not after training
      settings = problem_flags.from_flags()
      problem = make_problem(settings)
      settings = dataclasses.replace(settings, layers=problem.layers)
      folder.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=folder):
        pass  # fail now, not after training, if the folder is not writable
      _run(settings, problem, folder)
  except KeyboardInterrupt:
    exits.interrupted("Nothing was written. Run the same command again to start over.")


def _run(settings: Settings, problem: Problem, folder: Path) -> None:
  """Trains the network, evaluates it, writes result.json and prints a summary."""
  keys = Keys(*jax.random.split(jax.random.key(settings.seed), 4))
  start = time.monotonic()
  title = settings.problem
  with progress.show(settings.steps, 0, Console(), title=title, unit="updates") as report:
    report("compiling", 0, None)
    params, loss = train(settings, problem, keys, functools.partial(report, "training"))
  metrics = evaluation.evaluate(settings, problem, params, keys.evaluation)
  result = {
    **metrics,
    "training_loss": loss,
    "seconds": time.monotonic() - start,
    "settings": dataclasses.asdict(settings),
    "import": plugins.given(),
    "versions": provenance.versions((*provenance.PACKAGES, "scikit-learn", *provenance.plugins())),
    "git": provenance.git(),
  }
  files.write_json(folder / "result.json", result)
  print("\n".join(evaluation.summary(metrics)))
  print(f"{result['seconds']:.0f} s. The full result is in {folder / 'result.json'}.")


if __name__ == "__main__":
  backend.pin_settings()
  compilation_cache.use("auto")
  define_flags()
  command_line.run(main)
