"""Writes, checks and copies the files of one run, which are in `runs/<run id>/`.

`status.json` holds the run's status: `running`, `finished`, `diverged` or `failed`. When the run
ends, its final status is written after all other files, with a checksum that covers the status and
the records.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from experiments.runtime import exits, files
from experiments.sweep.config.runs import Run, Settings, run_config
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import origins, run_gradients
from experiments.sweep.records.record import (
  Record,
  Result,
  nonfinite_from_json,
  nonfinite_text,
  recorded_steps,
)
from experiments.sweep.records.sweep_folder import ARRIVING, json_sha256
from rnn_jax.gradient_flow import NonFinite

# The files that hold a run's records. The checksum in status.json covers them.
RECORDS = ("config.json", "metrics.jsonl", "gradients.nc")
# The keys of each line of metrics.jsonl, in addition to `step`. Lines of steps that are evaluated
# on held-out data have the keys of `Record.held_out`, too.
METRICS = ("loss", "grad_norm", "clipped_norm", "clipped")
# The statuses of a *done* run, whose records are complete.
DONE = ("finished", "diverged")
ENDED = (*DONE, "failed")
Status: TypeAlias = dict[str, Any]  # contents of status.json


def status(folder: Path, run_id: str) -> Status:
  """Returns the contents of a run's status.json; {} if it is missing or its checksum is wrong.

  The checksum covers the status and the records. While a run is `running`, its status has no
  checksum. A run for which {} is returned is trained again.
  """
  path = folder / "runs" / run_id
  try:
    state = files.read_json(path / "status.json")
    intact = state.get("status") == "running" or (_is_complete(state) and _is_intact(path, state))
    return state if intact else {}
  except (OSError, ValueError):
    return {}


def statuses(folder: Path, ids: Iterable[str]) -> dict[str, Status]:
  """Returns the status of each run by run id; see `status`."""
  return {run_id: status(folder, run_id) for run_id in ids}


def is_done(folder: Path, run_id: str) -> bool:
  """Returns whether the run has finished or diverged, with intact records."""
  return status(folder, run_id).get("status") in DONE


def start(folder: Path, run_id: str, config: Mapping[str, object]) -> None:
  """Records that a run has started: writes the status `running` and the configuration.

  The metrics and the error of an earlier attempt are deleted.
  """
  path = folder / "runs" / run_id
  path.mkdir(parents=True, exist_ok=True)
  # If a power failure damages these files, the run is trained again, like any unfinished run. They
  # are on disk long before the run ends, unless it takes less than a minute.
  files.write_json(path / "status.json", {"status": "running"}, durable=False)
  files.write_json(path / "config.json", config, durable=False)
  for name in ("error.txt", "metrics.jsonl"):
    (path / name).unlink(missing_ok=True)


def append_metrics(folder: Path, run_id: str, first_step: int, records: Record) -> None:
  """Appends to the run's metrics.jsonl one line for each step of `records`.

  The first of these steps is `first_step`.
  """
  # Append in a single write, so that a concurrent reader sees only whole lines.
  with (folder / "runs" / run_id / "metrics.jsonl").open("ab", buffering=0) as file:
    lines = _lines(first_step, records)
    if file.write(lines) < len(lines):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _lines(first_step: int, records: Record) -> bytes:
  columns = [getattr(records, name).tolist() for name in METRICS]
  rows = [dict(zip(METRICS, values, strict=True)) for values in zip(*columns, strict=True)]
  for name, values in records.held_out.items():
    for i in np.flatnonzero(~np.isnan(values)).tolist():
      rows[i][name] = values[i].item()
  lines = [json.dumps({"step": step, **row}) for step, row in enumerate(rows, start=first_step)]
  return "".join(line + "\n" for line in lines).encode()


def finish(
  folder: Path,
  run_id: str,
  result: Result,
  settings: Settings,
  nonfinite: NonFinite | None = None,
  replay: bytes | None = None,
  code: str | None = None,
) -> None:
  """Writes the records of a run that has finished or diverged, then its final status.

  Args:
    folder: the output folder of the sweep.
    run_id: id of the run.
    result: the run's result, with its records.
    settings: settings of the sweep.
    nonfinite: if the run diverged, the location of its first non-finite value, or None if there is
      none to be found.
    replay: if the run diverged, the contents of its `replay.npz`.
    code: key of the code that made the records, from `origins.key`; None if it is unknown.
  """
  path = folder / "runs" / run_id
  # The run's driver may have recorded it as failed in the meantime, as it could not see its worker.
  (path / "error.txt").unlink(missing_ok=True)
  if replay is None:
    (path / "replay.npz").unlink(missing_ok=True)  # of a record that this one replaces
  else:
    files.write_bytes(path / "replay.npz", replay)
  # Rewrite all lines, because the last appended line may be incomplete, and because an interrupted
  # process may have appended lines for steps after its last checkpoint.
  files.write_bytes(path / "metrics.jsonl", _lines(0, result.records))
  steps = recorded_steps(result.run, settings)
  run_gradients.write(path / "gradients.nc", result.records, steps)
  _write_status(
    path,
    {
      "status": "finished" if result.diverged_step is None else "diverged",
      "diverged_step": result.diverged_step,
      # Older versions named this key `bad_place`. Keep the name, so that their files can be read.
      "bad_place": nonfinite and {"step": result.diverged_step, **nonfinite._asdict()},
      "seconds": round(result.seconds, 3),
      **({} if code is None else {"code": code}),
    },
  )


def fail(sweep: Sweep, run: Run, phase: str, error: BaseException) -> None:
  """Records that a run could not be trained, with the reason, and prints a warning.

  The reason is one line in `status.json`. The traceback is in `error.txt`.

  Args:
    sweep: the sweep.
    run: the run.
    phase: the phase that failed: `compilation`, `training` or `worker`.
    error: the exception that was raised.
  """
  config = run_config(run, sweep.settings, sweep.sha256)
  reason = f"{phase}: {type(error).__name__}: " + (str(error).strip() or "no reason").split("\n")[0]
  trace = "".join(traceback.format_exception(error))
  write_failure(sweep.folder, sweep.names[run], config, reason, trace)
  exits.warn(f"{sweep.names[run]} failed; the other runs continue. {reason}")


def write_failure(
  folder: Path, run_id: str, config: Mapping[str, object], reason: str, trace: str
) -> None:
  """Writes the files of a run that could not be trained: configuration, traceback and status."""
  path = folder / "runs" / run_id
  files.write_json(path / "config.json", config)
  files.write_text(path / "error.txt", trace)
  _write_status(path, {"status": "failed", "reason": reason, "code": origins.key()})


def _write_status(path: Path, state: Mapping[str, object]) -> None:
  """Writes status.json in a run's folder, with a checksum that covers `state` and the records."""
  files.write_json(path / "status.json", {**state, "sha256": _checksum(path, state)})


def _is_complete(state: Status) -> bool:
  """Returns whether a final status has the entries, of the right types, that `finish` reads."""
  try:
    nonfinite_text(nonfinite_from_json(state.get("bad_place")))
  except Exception:  # wrong types raise exceptions of many types
    return False
  return {
    "finished": "diverged_step" in state and state["diverged_step"] is None,
    "diverged": isinstance(state.get("diverged_step"), int) and state["diverged_step"] < 2**31,
    "failed": isinstance(state.get("reason"), str),
  }.get(str(state.get("status")), False)


def _is_intact(path: Path, state: Mapping[str, object]) -> bool:
  """Returns whether the run's status and records are unchanged since the status was written."""
  if "sha256" in state:
    return state["sha256"] == _checksum(path, state)
  # Older versions stored the sizes of the files in place of a checksum.
  records = [path / name for name in RECORDS]
  sizes = {file.name: file.stat().st_size if file.is_file() else None for file in records}
  return "diverged_step" in state and state.get("bytes") == sizes


def _checksum(path: Path, state: Mapping[str, object]) -> str:
  """Hashes a run's status and records, but not `seconds`, which differs between equal runs."""
  same = {name: value for name, value in state.items() if name not in ("seconds", "sha256")}
  paths = [path / name for name in RECORDS]
  contents = (files.read_bytes(file) if file.is_file() else b"" for file in paths)
  return json_sha256([same, [hashlib.sha256(data).hexdigest() for data in contents]])


def read_all(folder: Path, run_id: str) -> dict[str, bytes]:
  """Returns the contents of a run's files by name."""
  paths = (folder / "runs" / run_id).iterdir()
  kept = [path for path in sorted(paths) if path.is_file() and path.suffix != ".tmp"]
  return {path.name: files.read_bytes(path) for path in kept}


def write_all(
  folder: Path, run_id: str, contents: Mapping[str, bytes], durable: bool = True
) -> None:
  """Replaces all files of a run at once, so that a reader never sees a mix of old and new files.

  `durable` is explained in `files.replacing`.
  """
  draft = folder / ARRIVING / run_id
  shutil.rmtree(draft, ignore_errors=True)
  for name, data in contents.items():
    files.write_bytes(draft / name, data, durable)
  path = folder / "runs" / run_id
  path.parent.mkdir(exist_ok=True)
  files.remove(path)
  draft.replace(path)
  shutil.rmtree(folder / ARRIVING)
