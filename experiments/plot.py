"""Redraws the figures of a sweep from its records.

  python -m experiments.plot results/gradient_decay

The figures are written to `figures` in the sweep's folder.
"""

from __future__ import annotations

from experiments.cli import command_line, paths
from experiments.runtime import exits, files
from experiments.sweep.figures import gradients as figures
from experiments.sweep.records import gathered, origins, sweep_folder


def main(arguments: list[str]) -> None:
  """Writes FOLDER/figures from the records in FOLDER."""
  if len(arguments) != 1:
    exits.fail(f"give the folder of one sweep, got {len(arguments)} arguments.")
  with command_line.errors_in_one_line("FOLDER could not be read or written"):
    folder = paths.path("FOLDER", arguments[0])
    files.check_no_links(folder / "figures")
    gradients, metrics, states = gathered.read(folder)
    drawn = figures.save_all(gradients, metrics, folder / "figures")
    origins.warn_if_mixed(sweep_folder.read_sweep(folder), states)
  print("\n".join(map(str, drawn)))


if __name__ == "__main__":
  command_line.run(main)
