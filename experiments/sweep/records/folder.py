"""The folder of a sweep: what is in it, written so that a reader never sees half a file.

sweep.json        resolved configuration, versions, devices, git commit, corpus
sweep.flags       feed it back and get the same sweep
summary.csv       a line a run
gradients.nc      norms and measures, run × step × layer × time, lag or the like
figures/          pictures
runs/<run id>/    config.json, status.json, metrics.jsonl, gradients.nc; replay.npz if it diverged,
                  error.txt if it failed
checkpoints/      what runs that have not ended have come to; see work.py
slurm_logs/       of jobs, where SLURM ran them
.lock             held by the processes that write; see sweep_folder.py
.lock-prepare     held by one that looks whether the folder is ready, where it is not alone
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.runtime import files
from experiments.sweep.config.grid import Settings, recorded_steps
from experiments.sweep.measures import MEASURES, coordinates
from experiments.sweep.training import divergence
from experiments.sweep.training.divergence import BadStep
from experiments.sweep.training.program import Record
from experiments.sweep.training.rounds import Result
from rnn_jax.checkpoints import difference

# sweep.json goes last, so that a folder that was half cleared is still known as a sweep's.
_OURS = (
  "summary.csv",
  "gradients.nc",
  "figures",
  "checkpoints",
  "slurm_logs",
  "runs",
  "sweep.flags",
  "sweep.json",
)
PREPARING = ".lock-prepare"
# What a run's status vouches for.
_VOUCHED = ("config.json", "metrics.jsonl", "gradients.nc")
# Of a step, in metrics.jsonl.
METRICS = ("loss", "grad_norm", "clipped_norm", "clipped")


def check_folder(folder: Path, configuration: Mapping[str, Any], overwrite: bool) -> None:
  """Refuses a folder that cannot be written, or holds anything but this sweep; changes nothing.

  Raises:
    ValueError: naming the folder, and the first difference from the sweep that it holds.
  """
  try:
    _check_folder(folder, configuration, overwrite)
  except OSError as error:
    raise ValueError(
      f"--output_dir must be a folder that can be written, got {folder} ({error.strerror})."
    ) from None


def _check_folder(folder: Path, configuration: Mapping[str, Any], overwrite: bool) -> None:
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output_dir must be a folder, got the file {folder}.")
  existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
  with tempfile.TemporaryFile(dir=existing):
    pass  # an OSError tells that nothing can be written here
  if not folder.exists():
    return
  if not (folder / "sweep.json").exists():
    # These are what a sweep leaves that was killed in its first moment.
    first = {".lock", PREPARING, "sweep.flags"}
    rest = sorted(p.name for p in folder.iterdir() if p.suffix != ".tmp" and p.name not in first)
    if rest:
      raise ValueError(
        f"--output_dir must be new, empty, or hold a sweep, got {folder}, which holds '{rest[0]}'."
      )
  elif not overwrite:
    found = difference(read_sweep(folder)["configuration"], configuration, older=True)
    if found is not None:
      raise ValueError(
        f"--output_dir holds another sweep (its {found}), got {folder}; choose another folder, "
        "or --overwrite to replace it."
      )


def prepare_folder(
  folder: Path,
  configuration: Mapping[str, Any],
  about: Mapping[str, Any],
  flags: str,
  overwrite: bool,
) -> None:
  """Makes the folder ready: new, with another sweep cleared away, or for this one to go on.

  A sweep that goes on with other versions or devices than it began with notes them.
  """
  if overwrite and (folder / "sweep.json").exists() and _is_another(folder, configuration):
    for name in _OURS:
      path = folder / name
      if path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)
  if not (folder / "sweep.json").exists():
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "sweep.flags", flags)
    new = {"configuration": configuration, **about}
    files.write_json(folder / "sweep.json", {**new, "sha256": _sweep_sha256(new)})
    return
  files.write_text(folder / "sweep.flags", flags)  # it may be damaged
  note(folder, about)


def note(folder: Path, about: Mapping[str, Any]) -> None:
  """Notes with which versions and devices a part of the sweep is computed, if that is new."""
  before = read_sweep(folder)
  continued = before.get("continued", [])
  now = {name: about.get(name) for name in ("started", "versions", "devices", "git")}
  compared = ("versions", "devices", "git")
  # All that went before: parts that are computed by turns, here and there, are noted once each.
  if not any(all(e.get(n) == now[n] for n in compared) for e in (before, *continued)):
    files.write_json(folder / "sweep.json", {**before, "continued": [*continued, now]})


def _is_another(folder: Path, configuration: Mapping[str, Any]) -> bool:
  try:
    found = read_sweep(folder)["configuration"]
    return difference(found, configuration, older=True) is not None
  except ValueError:  # damaged
    return True


def read_sweep(folder: Path) -> dict[str, Any]:
  """`sweep.json`: what the sweep in the folder was asked to do, and what else is known of it.

  Raises:
    ValueError: it is damaged.
  """
  path = folder / "sweep.json"
  about = files.read_json(path)
  runs, continued = about.get("runs"), about.get("continued", [])
  if not (
    all(isinstance(about.get(name), dict) for name in ("configuration", "task"))
    and (isinstance(runs, list) and all(isinstance(name, str) for name in runs))
    and (isinstance(continued, list) and all(isinstance(part, dict) for part in continued))
  ):
    raise ValueError(f"{path} is damaged: it must hold configuration, task and runs.")
  # Older ones have no hash.
  if about.get("sha256", _sweep_sha256(about)) != _sweep_sha256(about):
    raise ValueError(
      f"{path} is damaged: configuration, task or runs are not as they were written."
    )
  return about


def _sweep_sha256(about: Mapping[str, Any]) -> str:
  """Of what readers rely on, and no later start of the sweep changes."""
  return _digest([about[name] for name in ("configuration", "task", "runs")])


def status(folder: Path, run_id: str) -> dict[str, Any]:
  """The run's status.json; an empty dict where it has none, or one that cannot be relied on.

  A run with a record that is not as it was when the run ended is done again.
  """
  path = folder / "runs" / run_id
  try:
    state = files.read_json(path / "status.json")
    return state if state.get("status") == "running" or _vouches(path, state) else {}
  except (OSError, ValueError):
    return {}


def has_ended(folder: Path, run_id: str) -> bool:
  """Whether the run has finished or diverged, and its records are whole."""
  return status(folder, run_id).get("status") in ("finished", "diverged")


def has_failed(folder: Path, run_id: str) -> bool:
  """Whether the run could not be trained; its status says why."""
  return status(folder, run_id).get("status") == "failed"


def _vouches(path: Path, state: Mapping[str, Any]) -> bool:
  """Whether a run's status and its records are as they were when the status was written."""
  if "sha256" in state:
    return state["sha256"] == _sha256(path, state)
  # From before there were hashes.
  records = [path / name for name in _VOUCHED]
  sizes = {file.name: file.stat().st_size if file.is_file() else None for file in records}
  return "diverged_step" in state and state.get("bytes") == sizes


def _end(path: Path, state: Mapping[str, Any]) -> None:
  """Writes a run's last status, which vouches for itself and the records."""
  files.write_json(path / "status.json", {**state, "sha256": _sha256(path, state)})


def _sha256(path: Path, state: Mapping[str, Any]) -> str:
  """Of a run's status and records, without what differs from one execution to the next."""
  same = {name: value for name, value in state.items() if name not in ("seconds", "sha256")}
  paths = [path / name for name in _VOUCHED]
  contents = [file.read_bytes() if file.is_file() else b"" for file in paths]
  return _digest([same, [hashlib.sha256(data).hexdigest() for data in contents]])


def _digest(data: Any) -> str:
  """A hash of JSON data."""
  return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def start_run(folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
  """Notes that a run has begun."""
  path = folder / "runs" / run_id
  path.mkdir(parents=True, exist_ok=True)
  (path / "error.txt").unlink(missing_ok=True)
  files.write_json(path / "status.json", {"status": "running"})
  files.write_json(path / "config.json", config)
  (path / "metrics.jsonl").write_text("")


def append_metrics(folder: Path, run_id: str, first_step: int, records: Record) -> None:
  """Adds a line for each of the records' steps to the run's `metrics.jsonl`."""
  # One call to the system, so that a reader sees whole lines.
  with (folder / "runs" / run_id / "metrics.jsonl").open("ab", buffering=0) as file:
    lines = _lines(first_step, records)
    if file.write(lines) < len(lines):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _lines(first_step: int, records: Record) -> bytes:
  columns = [getattr(records, name).tolist() for name in METRICS]
  lines = [
    json.dumps({"step": step, **dict(zip(METRICS, values, strict=True))})
    for step, values in enumerate(zip(*columns, strict=True), start=first_step)
  ]
  return "".join(line + "\n" for line in lines).encode()


def fail_run(folder: Path, run_id: str, config: Mapping[str, Any], reason: str, trace: str) -> None:
  """Notes that a run could not be trained, and why."""
  path = folder / "runs" / run_id
  files.write_json(path / "config.json", config)
  files.write_text(path / "error.txt", trace)
  _end(path, {"status": "failed", "reason": reason})


def end_run(
  folder: Path, run_id: str, result: Result, settings: Settings, bad: BadStep | None
) -> None:
  """Writes a run's records, then its status: one that says `finished` vouches for all the rest.

  Where the run diverged, `bad`, the first bad place of that step is looked for, too.
  """
  path = folder / "runs" / run_id
  place = None
  if bad is not None:
    place = divergence.find(bad)
    with files.replacing(path / "replay.npz") as draft, draft.open("wb") as file:
      divergence.save(file, bad, place)
  # Whole: what was appended may have been torn, or be of a process that was here before.
  files.write_bytes(path / "metrics.jsonl", _lines(0, result.records))
  files.write_netcdf(path / "gradients.nc", _gradients(result.records, settings))
  _end(
    path,
    {
      "status": "finished" if result.diverged_step is None else "diverged",
      "diverged_step": result.diverged_step,
      "bad_place": place and {"step": result.diverged_step, **place._asdict()},
      "seconds": round(result.seconds, 3),
    },
  )


def _gradients(records: Record, settings: Settings) -> xr.Dataset:
  """One run's norms and measures, over the recorded steps first; NaN after divergence."""
  steps = recorded_steps(settings)
  by_dims: list[tuple[tuple[str, ...], dict[str, Any]]] = [(("layer", "time"), records.norms)]
  by_dims += [(MEASURES[name].dims, found) for name, found in records.measures.items()]
  variables = {}
  for dims, found in by_dims:
    for name, values in found.items():
      recorded = np.full((len(steps), *values.shape[1:]), np.nan, np.float32)
      recorded[: len(values)] = values
      variables[name] = (("step", *dims[: values.ndim - 1]), recorded)
  data = xr.Dataset(variables)
  return data.assign_coords({"step": np.array(steps, np.int32), **coordinates(data.sizes)})
