"""Folders of sweeps whose records are made up, which takes no training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from configured import make_settings

from experiments.runtime import files
from experiments.sweep.config.runs import Run, run_config
from experiments.sweep.records import run_files
from experiments.sweep.records.record import Record, Result

T = 6
TASKS = [
  {"task": "adding", "sequence_length": T, "loss_unit": "nats", "baseline": 0.5},
  {"task": "copy_memory", "sequence_length": T, "loss_unit": "bits", "baseline": 0.7},
]


def write(
  folder: Path,
  runs: Mapping[str, Run],
  log_every: int = 1,
  measures: tuple[str, ...] = (),
  **shared: Any,
) -> Path:
  """Writes a sweep with two updates; a run's values follow from its name.

  Args:
    folder: the sweep's folder.
    runs: {id: run}; the runs have hidden sizes of their own.
    log_every: updates between records of the gradient norms.
    measures: `lag`, to record lag norms, or nothing.
    shared: further entries of the sweep's configuration.
  """
  settings = make_settings(log_every, "", 1, match_params=18)
  files.write_json(
    folder / "sweep.json",
    {
      "configuration": {"steps": [2], "task": ["adding"], **shared},
      "tasks": TASKS,
      "runs": list(runs),
    },
  )
  for name, run in runs.items():
    rng = np.random.default_rng([ord(letter) for letter in name])
    loss = rng.uniform(size=3).astype(np.float32)
    shape = (2 if log_every > 1 else 3, run.depth, T)
    norms = {"log10_grad_norm": rng.normal(size=shape).astype(np.float32)}
    lag = {"lag": {"log10_lag_norm": rng.normal(size=shape).astype(np.float32)}}
    held_out = {"held_out_loss": np.where(np.arange(3) == 2, loss, np.nan).astype(np.float32)}
    measured = lag if "lag" in measures else {}
    record = Record(loss, loss, loss, loss, loss > 2, norms, measured, held_out)
    run_files.start(folder, name, run_config(run, settings, None))
    run_files.finish(folder, name, Result(run, record, None, None, 1.0), settings)
  return folder
