"""Times the reference sweep as its user starts it, against the same study in other libraries."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.benchmark import peer_sweep

ROOT = Path(__file__).parents[2]
TORCH_STEPS = 20  # of all; nothing is compiled there, so that its time is linear in steps
_DEVICE_SWEEP = (
  "--cell=lstm",
  "--depth=1",
  "--truncation=full",
  "--seed=0,1,2,3,4,5,6,7",
  "--steps=100",
)

OURS, OURS_EVERY = "ours, norms every 20 steps", "ours, norms every step"
TORCH, TORCH_EVERY = "torch, norms every 20 steps", "torch, norms every step"
LINEN = "flax linen, no norms"
ONE, TWO, PINNED = "ours, 8 runs, 1 device", "ours, 8 runs, 2 devices", "1 device on 1 core"


class SweepTime(NamedTuple):
  """How long a sweep took.

  Attributes:
    name: which.
    seconds: wall clock of all of it, compilation included; None if it could not be measured.
    training: of it in training steps, summed over rounds of runs; None where it was not told apart.
    note: how it was measured, or why not.
  """

  name: str
  seconds: float | None
  training: float | None = None
  note: str = ""


def measure(cores: Sequence[int], extra_flags: Sequence[str]) -> Iterator[SweepTime]:
  """Times the sweep, ours and theirs, and ours on one and two devices.

  Args:
    cores: of this process; so many runs go on at a time.
    extra_flags: for our sweep; those that make the comparison come after them, and win.
  Yields:
    The times as they come.
  """
  yield time_sweep(OURS, [*extra_flags, "--log_every=20"], len(cores))
  yield time_sweep(OURS_EVERY, [*extra_flags, "--log_every=1", "--measure_every=20"], len(cores))
  yield from _torch(len(cores))
  yield _linen(len(cores))
  if len(cores) < 2:
    return
  yield time_sweep(TWO, [*extra_flags, *_DEVICE_SWEEP, "--devices=2"], 2)
  one = [*extra_flags, *_DEVICE_SWEEP, "--devices=1"]
  yield time_sweep(ONE, one, 1)
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, cores[:1])  # the sweep inherits it
    try:
      yield time_sweep(PINNED, one, 1)
    finally:
      os.sched_setaffinity(0, cores)


def time_sweep(name: str, flags: Sequence[str], devices: int) -> SweepTime:
  """`python -m experiments.sweep` in a fresh folder."""
  with tempfile.TemporaryDirectory() as folder:
    command = (sys.executable, "-m", "experiments.sweep", f"--flagfile={peer_sweep.FLAGFILE}")
    start = time.perf_counter()
    result = subprocess.run(
      (*command, f"--output_dir={folder}", *flags),
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    seconds = time.perf_counter() - start
    if result.returncode:
      return SweepTime(name, None, note=(result.stderr.strip() or "failed").splitlines()[-1])
    # The runs of a round, one a device, each hold the seconds of their round.
    states = Path(folder).glob("runs/*/status.json")
    training = sum(json.loads(state.read_text())["seconds"] for state in states) / devices
  return SweepTime(name, seconds, training, " ".join(flags))


def _torch(processes: int) -> Iterator[SweepTime]:
  steps = int(peer_sweep.settings()["steps"])
  for name, log_every in ((TORCH, 20), (TORCH_EVERY, 1)):
    if importlib.util.find_spec("torch") is None:
      yield SweepTime(name, None, note="not installed")
      continue
    runs = peer_sweep.runs(TORCH_STEPS, log_every)
    start, training = peer_sweep.seconds(peer_sweep.train_torch, runs, processes)
    training *= steps / TORCH_STEPS
    note = f"{TORCH_STEPS} of {steps} steps measured, times {steps / TORCH_STEPS:g}"
    yield SweepTime(name, start + training, training, note)


def _linen(processes: int) -> SweepTime:
  """One run of each cell and depth, since the others compile and compute the same again."""
  every = peer_sweep.runs(int(peer_sweep.settings()["steps"]), log_every=1)
  runs = [run for run in every if run.truncation is None and run.seed == every[0].seed]
  start, training = peer_sweep.seconds(peer_sweep.train_linen, runs, processes)
  training *= len(every) / len(runs)
  note = f"{len(runs)} of {len(every)} runs measured, times {len(every) / len(runs):g}"
  return SweepTime(LINEN, start + training, training, note)
