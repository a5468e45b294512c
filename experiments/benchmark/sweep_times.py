"""Times of the reference sweep, and of the same training runs in torch and Flax.

The reference sweep is defined by `flagfiles/gradient_decay.flags`. It is started as users start it,
by `python -m experiments.sweep`.
"""

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

from experiments.benchmark import baseline_sweep

ROOT = Path(__file__).parents[2]
TORCH_STEPS = 20  # torch compiles nothing, so times of a few steps are extrapolated to all steps

# The eight runs that are trained on two devices and then on one, to measure the speedup.
_DEVICE_SWEEP = (
  "--cell=lstm",
  "--depth=1",
  "--truncation=full",
  "--seed=0,1,2,3,4,5,6,7",
  "--steps=100",
)

OURS_20, OURS_EVERY = "ours, norms every 20 steps", "ours, norms every step"
TORCH_20, TORCH_EVERY = "torch, norms every 20 steps", "torch, norms every step"
LINEN = "flax linen, no norms"
ONE, TWO, PINNED = "ours, 8 runs, 1 device", "ours, 8 runs, 2 devices", "1 device on 1 core"


class SweepTime(NamedTuple):
  """The time of one sweep.

  Attributes:
    name: one of the names in this module, such as OURS_20.
    seconds: wall-clock time, compilation included; None if it could not be measured.
    training: the part of `seconds` spent in training steps; None if unknown.
    note: how the time was measured, or why it was not.
  """

  name: str
  seconds: float | None
  training: float | None = None
  note: str = ""


def measure(cores: Sequence[int], extra_flags: Sequence[str]) -> Iterator[SweepTime]:
  """Times our sweep, the same sweep in torch and Flax, and eight of our runs on 2 devices and on 1.

  Args:
    cores: the CPU cores of this process, each of which trains one run at a time.
    extra_flags: flags for our sweep; the flags that the comparison needs override them.
  Yields:
    Each time as soon as it is measured.
  """
  yield time_sweep(OURS_20, [*extra_flags, "--log_every=20"], len(cores))
  yield time_sweep(OURS_EVERY, [*extra_flags, "--log_every=1", "--measure_every=20"], len(cores))
  yield from _torch(len(cores))
  yield _linen(len(cores))
  if len(cores) < 2:
    return
  yield time_sweep(TWO, [*extra_flags, *_DEVICE_SWEEP, "--devices=2"], 2)
  one = [*extra_flags, *_DEVICE_SWEEP, "--devices=1"]
  yield time_sweep(ONE, one, 1)
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, cores[:1])  # the sweep's process inherits the affinity
    try:
      yield time_sweep(PINNED, one, 1)
    finally:
      os.sched_setaffinity(0, cores)


def time_sweep(name: str, flags: Sequence[str], devices: int) -> SweepTime:
  """Times `python -m experiments.sweep` in an empty folder.

  Args:
    name: label of the returned `SweepTime`.
    flags: extra flags, added to those of the reference sweep.
    devices: number of devices that the sweep uses.
  """
  with tempfile.TemporaryDirectory() as folder:
    command = (sys.executable, "-m", "experiments.sweep", f"--flagfile={baseline_sweep.FLAGFILE}")
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
    # Our sweep trains its runs in rounds, one run per device, and each run's record holds the
    # seconds of its whole round. So the sum over runs counts each round `devices` times.
    states = Path(folder).glob("runs/*/status.json")
    training = sum(json.loads(state.read_text())["seconds"] for state in states) / devices
  return SweepTime(name, seconds, training, " ".join(flags))


def _torch(processes: int) -> Iterator[SweepTime]:
  """Times all runs in torch, once with norms every 20 steps and once with norms every step.

  Only TORCH_STEPS training steps are timed; their time is extrapolated to all steps.
  """
  steps = int(baseline_sweep.settings()["steps"])
  for name, log_every in ((TORCH_20, 20), (TORCH_EVERY, 1)):
    if importlib.util.find_spec("torch") is None:
      yield SweepTime(name, None, note="not installed")
      continue
    runs = baseline_sweep.runs(TORCH_STEPS, log_every)
    start, training = baseline_sweep.seconds(baseline_sweep.train_torch, runs, processes)
    training *= steps / TORCH_STEPS
    note = f"{TORCH_STEPS} of {steps} steps measured, times {steps / TORCH_STEPS:g}"
    yield SweepTime(name, start + training, training, note)


def _linen(processes: int) -> SweepTime:
  """Times one run of each cell and depth in Flax, and extrapolates to all runs.

  These runs are enough, because other seeds and truncations compile and run the same program.
  """
  every = baseline_sweep.runs(int(baseline_sweep.settings()["steps"]), log_every=1)
  runs = [run for run in every if run.truncation is None and run.seed == every[0].seed]
  start, training = baseline_sweep.seconds(baseline_sweep.train_linen, runs, processes)
  training *= len(every) / len(runs)
  note = f"{len(runs)} of {len(every)} runs measured, times {len(every) / len(runs):g}"
  return SweepTime(LINEN, start + training, training, note)
