"""Reads the sweeps of a report: their records, and what the runs can be selected by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from experiments.ablation import factors
from experiments.ablation.study import Factor
from experiments.runtime import files
from experiments.sweep.records import gathered, run_files
from experiments.sweep.records.run_files import Status
from experiments.sweep.records.sweep_folder import read_sweep

_LARGEST_FLAGS = 2**20  # bytes
_ORDER = {"folder": -2, "cell": -1, "seed": 1, "status": 2}  # the other settings are in between


class Source(NamedTuple):
  """One of the sweeps of a report.

  Attributes:
    name: the folder as the user gave it.
    about: contents of `sweep.json`.
    flags: contents of `sweep.flags`; empty if the file is missing.
    gradients, metrics: records of the runs that are done, as from `gathered.read`.
    states: the status of every run by its id.
  """

  name: str
  about: dict[str, Any]
  flags: str
  gradients: xr.Dataset
  metrics: xr.Dataset
  states: dict[str, Status]

  @property
  def unfinished(self) -> int:
    """The number of runs that have not ended."""
    return sum(state.get("status") not in run_files.ENDED for state in self.states.values())


def read(folder: Path) -> Source:
  """Reads a sweep, which may be unfinished.

  Raises:
    ValueError: as in `gathered.read` with `partial`.
  """
  gradients, metrics, states = gathered.read(folder, partial=True)
  path = folder / "sweep.flags"
  flags = files.read_bytes(path, _LARGEST_FLAGS) if path.is_file() else b""
  text = flags.decode(errors="replace")
  return Source(str(folder), read_sweep(folder), text, gradients, metrics, states)


def settings(sources: Sequence[Source]) -> dict[str, Factor]:
  """Returns the settings that vary among the runs of all sources, by name.

  The folder is one of them if there are several, and so are the seed and the status.
  """
  columns: dict[str, list[str | None]] = {"folder": []}
  done = 0
  for source in sources:
    own: factors.Columns = {
      **factors.columns(source.gradients, [source.about["configuration"]]),
      "seed": [str(seed) for seed in source.gradients["seed"].values],
      "status": [str(status) for status in source.gradients["status"].values],
      "folder": [source.name] * source.gradients.sizes["run"],
    }
    for name in own:
      columns.setdefault(name, [None] * done)
    done += source.gradients.sizes["run"]
    for name, column in columns.items():
      column += own.get(name, [None] * source.gradients.sizes["run"])
  configurations = [source.about["configuration"] for source in sources]
  found = factors.factors(columns, configurations)
  return dict(sorted(found.items(), key=lambda item: _ORDER.get(item[0], 0)))
