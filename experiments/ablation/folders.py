"""Reads the records of one or several sweeps into a `Study`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.ablation import factors
from experiments.ablation.outcomes import largest_lag, outcomes
from experiments.ablation.study import Study
from experiments.sweep.records import sweep_folder, united
from experiments.sweep.records.run_files import Status


def read(folders: Sequence[Path], lag: int | None = None) -> Study:
  """Reads the runs of completed sweeps; a run that several folders hold is read once.

  Args:
    folders: the sweeps' folders.
    lag: lag at which the lost decades are taken; None for the largest lag of all runs.
  Raises:
    ValueError: as in `united.read`, or if the lag was not measured in all runs.
  """
  records = united.read(folders)
  configurations = [sweep_folder.read_sweep(folder)["configuration"] for folder in folders]
  return study(*records, configurations, lag)


def study(
  gradients: xr.Dataset,
  metrics: xr.Dataset,
  states: Mapping[str, Status],
  configurations: Sequence[Mapping[str, Any]],
  lag: int | None = None,
) -> Study:
  """Returns the runs of one or several sweeps, with the settings that vary among them.

  Args:
    gradients, metrics, states: records, as from `united.read`.
    configurations: the configuration in the `sweep.json` of each sweep.
    lag: as in `read`.
  Raises:
    ValueError: if the lag was not measured in all runs that finished.
  """
  largest = largest_lag(gradients)
  if lag is not None and not 0 < lag <= (largest or 0):
    rule = f"from 1 to {largest}, the largest lag that all runs have" if largest else "left out"
    reason = "" if largest else ", since not all runs have lag profiles"
    raise ValueError(f"lag must be {rule}{reason}, got {lag}.")
  found = outcomes(gradients, metrics, largest if lag is None else lag)
  remarks = []
  held_out = next((outcome for outcome in found if outcome.name == "held_out_loss"), None)
  if held_out is not None and not np.isneginf(held_out.low).any():
    replaced = ["final_training_loss"]
  else:
    replaced = ["held_out_loss"]
    remarks.append("Not all runs have a held-out loss: the final training loss takes its place.")
  diverged = gradients["status"].values == "diverged"
  if not diverged.any():
    replaced += ["diverged", "diverged_step"]
    remarks.append("No run diverged.")
  if largest is None:
    remarks.append("Not all runs have lag profiles, from which decay and memory are computed.")
  failed = sum(state.get("status") == "failed" for state in states.values())
  if failed:
    remarks.append(f"{failed} of {len(states)} runs failed, and are left out.")
  columns = factors.columns(gradients, configurations)
  selected = factors.selected(columns, configurations)
  if selected is not None:
    del columns[selected]
    remarks.append(
      f"Each setting has the {selected} that --select chose for it; {selected} is not compared."
    )
  tasks = columns.pop("task")
  found = [outcome for outcome in found if outcome.name not in replaced]
  if len(set(tasks)) > 1:
    found = [o._replace(unit="") if "loss" in o.name else o for o in found]
  return Study(
    runs=[str(name) for name in gradients["run"].values],
    seeds=[int(seed) for seed in gradients["seed"].values],
    tasks=[task or "" for task in tasks],
    diverged=diverged,
    factors=factors.factors(columns, configurations),
    outcomes=found,
    remarks=remarks,
  )
