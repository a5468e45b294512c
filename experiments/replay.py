"""Computes the step at which a run diverged again, and says where it goes wrong.

python -m experiments.replay results/exploding/runs/RUN/replay.npz

The file holds numbers and text, no code, so that it may come from anyone. Exit status 0: the first
bad place is the one on record; 1: it is not.
"""

from __future__ import annotations

import sys

import jax

from experiments.cli import command_line
from experiments.runtime import backend, provenance
from experiments.sweep.training import divergence

NOT_REPRODUCED = 1


def main(arguments: list[str]) -> None:
  """Finds the first bad place of the step in FILE, and compares it with the one stored there."""
  if len(arguments) != 1:
    command_line.fail(f"give one file, a run's replay.npz, got {len(arguments)} arguments.")
  try:
    bad, stored, about = divergence.load(command_line.path("FILE", arguments[0]))
    with jax.default_matmul_precision(about["matmul_precision"]):
      found = divergence.find(bad)
  except (ValueError, TypeError) as error:
    command_line.fail(str(error))
  print(f"step {bad.step}: {divergence.words(found)}")
  # What came before the place differs by rounding from machine to machine.
  if found and stored and found._replace(largest=stored.largest) == stored:
    print("reproduced.")
    return
  print(f"not reproduced; on record is: {divergence.words(stored)}")
  here = {"platform": jax.default_backend(), **provenance.versions(provenance.PACKAGES)}
  there = {"platform": about["platform"], **about["versions"]}
  for name, version in there.items():
    if here.get(name) != version:
      print(f"{name} is {here.get(name)} here, and was {version}.")
  sys.exit(NOT_REPRODUCED)


if __name__ == "__main__":
  backend.configure()
  command_line.run(main)
