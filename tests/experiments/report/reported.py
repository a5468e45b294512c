"""A folder of a sweep whose records are made up, and hold markup wherever they can hold text."""

from __future__ import annotations

import dataclasses

import numpy as np
import recorded
from configured import make_run, make_settings

from experiments.runtime import files
from experiments.sweep.config.runs import run_config
from experiments.sweep.records import run_files
from experiments.sweep.records.record import Record, Result
from rnn_jax.gradient_flow import NonFinite

IMAGE = "<img src=x onerror=hit()>"
HOSTILE = f"</script><script>hit()</script>{IMAGE}\"'&amp;{{{{script}}}}"
INVISIBLE = "\u2028\u202egnitirw\x1b[2J\x00"
CELLS = ("elman", f"gru{IMAGE}")
BASE = make_run(depth=2, steps=2, sequence_length=recorded.T, hidden_size=3)
RUNS = {
  f"{IMAGE}{i}{gain:g}-{seed}": dataclasses.replace(BASE, cell=cell, recurrent_gain=gain, seed=seed)
  for i, cell in enumerate(CELLS)
  for gain in (1.0, 2.0)
  for seed in (0, 1)
}
FINISHED, DIVERGED, FAILED = [*RUNS], f"diverged{IMAGE}", f"failed{IMAGE}"


def hostile(folder):
  """Writes a sweep of 8 runs that finished, one that diverged at step 1, and one that failed."""
  diverged = dataclasses.replace(BASE, seed=2)
  recorded.write(
    folder, {**RUNS, DIVERGED: diverged}, measures=("lag",), corpus=HOSTILE + INVISIBLE
  )
  config = run_config(diverged, make_settings(1, "", 1), None)
  loss = np.ones(2, np.float32)
  profiles = np.full((2, 2, recorded.T), -1, np.float32)
  profiles[..., -1] = -np.inf
  measured = {"lag": {"log10_lag_norm": profiles}}
  held_out = {"held_out_loss": np.full(2, np.nan, np.float32)}
  record = Record(
    loss, loss, loss, loss, loss > 2, {"log10_grad_norm": profiles}, measured, held_out
  )
  place = NonFinite("forward", 0, 3, f"hidden{HOSTILE}", (0, 1), "nan", 2.0, False)
  result = Result(diverged, record, 1, None, 1.0)
  run_files.finish(folder, DIVERGED, result, make_settings(1, "", 1, match_params=18), place)
  run_files.write_failure(folder, FAILED, config, f"training: {HOSTILE}", "trace")
  files.write_text(folder / "sweep.flags", f"--corpus={HOSTILE}\n")
  about = files.read_json(folder / "sweep.json")
  files.write_json(
    folder / "sweep.json",
    {
      **about,
      "runs": [*RUNS, DIVERGED, FAILED],
      "no_effect": [HOSTILE],
      "selected": [{"value": HOSTILE}],
      "versions": {IMAGE: HOSTILE},
      "devices": [HOSTILE],
      "started": HOSTILE,
      "git": {"commit": IMAGE, "dirty": True},
      "environment": {IMAGE: HOSTILE},
    },
  )
  return folder
