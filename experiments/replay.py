"""Recomputes the step at which a run diverged, and prints its first non-finite value.

  python -m experiments.replay results/exploding/runs/RUN/replay.npz

The file holds only numbers and text, and nothing in it is executed, so files from other people are
safe to open. The exit status is 0 if the first non-finite value is the recorded one, and 1 if not.
"""

from __future__ import annotations

import sys

import jax

from experiments.cli import command_line, flag_table, paths, plugins
from experiments.runtime import backend, exits, provenance
from experiments.sweep.records import origins
from experiments.sweep.records.record import nonfinite_text
from experiments.sweep.training import divergence, replay_file

NOT_REPRODUCED = 1
TABLE = plugins.TABLE


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Locates the first non-finite value of the step in FILE, and compares it with the record."""
  if len(arguments) != 1:
    exits.fail(f"give one file, a run's replay.npz, got {len(arguments)} arguments.")
  try:
    diverged, recorded, about = replay_file.load(paths.path("FILE", arguments[0]))
    with jax.default_matmul_precision(about["matmul_precision"]):
      found = divergence.locate(diverged)
  except (ValueError, TypeError) as error:
    exits.fail(str(error))
  run = paths.path("FILE", arguments[0]).absolute().parent
  origins.warn_if_changed(run, diverged.run.cell, diverged.run.task)
  print(f"step {diverged.step}: {nonfinite_text(found)}")
  # `largest`, the largest magnitude before the non-finite value, differs between machines by
  # rounding, so it is not compared.
  if found and recorded and found._replace(largest=recorded.largest) == recorded:
    print("reproduced.")
    return
  print(exits.printable(f"not reproduced; the record says: {nonfinite_text(recorded)}"))
  here = {"platform": jax.default_backend(), **provenance.versions(provenance.PACKAGES)}
  there = {"platform": about["platform"], **about["versions"]}
  for name, version in there.items():
    if here.get(name) != version:
      print(exits.printable(f"{name} is {here.get(name)} here; the run used {version}."))
  sys.exit(NOT_REPRODUCED)


if __name__ == "__main__":
  backend.configure()
  define_flags()
  command_line.run(main)
