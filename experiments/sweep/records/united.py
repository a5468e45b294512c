"""Reads the records of several sweeps as if one sweep had made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from experiments.sweep.config.grid import AXES
from experiments.sweep.records import gathered, run_files
from experiments.sweep.records.run_files import Status
from experiments.sweep.records.sweep_folder import read_sweep
from rnn_jax.checkpoints import difference

# The entries of a configuration that sweeps may differ in, apart from the axes. The name of a text
# does not matter if the texts have the same SHA-256.
_OWN = (
  "cell_option",
  "corpus",
  "design",
  "match_params",
  "measures",
  "select",
  "select_seed",
  "test_sequence_length",
)


def read(
  folders: Sequence[Path], partial: bool = False
) -> tuple[xr.Dataset, xr.Dataset, dict[str, Status]]:
  """Returns the records of the runs in all folders: (gradients, metrics, states).

  The three are as from `gathered.read`. A run that several folders hold is read once. Entries that
  a sweep did not record are NaN.

  Args:
    folders: the sweeps' folders.
    partial: as in `gathered.read`.
  Raises:
    ValueError: as in `gathered.read`; or if the sweeps differ in what all their runs share, such as
      the text, or hold different records of one run.
  """
  found = [gathered.read(folder, partial) for folder in folders]
  if len(found) == 1:
    return found[0]
  _check_shared(folders)
  states: dict[str, Status] = {}
  parts: list[tuple[xr.Dataset, xr.Dataset]] = []
  where: dict[str, Path] = {}
  for folder, (gradients, metrics, own) in zip(folders, found, strict=True):
    for name, state in own.items():
      done = state.get("status") in run_files.DONE
      if done and name in where:
        _check_same(name, where[name], folder)
      elif done or name not in states:
        states[name] = state
    new = [name for name in gradients["run"].values.tolist() if name not in where]
    where.update(dict.fromkeys(new, folder))
    if new:
      parts.append((gradients.sel(run=new), metrics.sel(run=new)))
  gradients, metrics = (_concatenate(data) for data in zip(*parts, strict=True))
  abouts = [read_sweep(folder) for folder in folders]
  return gradients, metrics.assign_attrs(gathered.task_attributes(metrics, abouts)), states


def _check_shared(folders: Sequence[Path]) -> None:
  """Checks that sweeps agree in all that is neither an axis nor in `_OWN`."""
  shared = [
    {
      name: value
      for name, value in read_sweep(folder)["configuration"].items()
      if name not in AXES and name not in _OWN
    }
    for folder in folders
  ]
  for folder, own in zip(folders[1:], shared[1:], strict=True):
    text = difference(own, shared[0], older=True)
    if text is not None:
      raise ValueError(
        f"All FOLDERs must agree in what their runs share, but {folder} differs from "
        f"{folders[0]}: its {text}."
      )


def _check_same(name: str, *folders: Path) -> None:
  """Checks that two folders hold the same records of the run `name`."""
  ours, theirs = (run_files.read_all(folder, name) for folder in folders)
  for record in run_files.RECORDS:
    if ours.get(record) != theirs.get(record):
      raise ValueError(
        f"Two FOLDERs hold different records of run {name}: its {record} in {folders[1]} differs "
        f"from that in {folders[0]}. Leave one of the two out."
      )


def _concatenate(parts: Sequence[xr.Dataset]) -> xr.Dataset:
  """Returns the runs of all parts; the other dimensions are the unions of the parts' dimensions."""
  return xr.concat(
    parts,
    "run",
    data_vars="all",
    coords="different",
    compat="equals",
    join="outer",
    combine_attrs="override",
  )
