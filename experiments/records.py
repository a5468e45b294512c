"""The folder of a sweep: what is in it, written so that a reader never sees half a file.

sweep.json        resolved configuration, versions, devices, git commit, corpus
sweep.flags       feed it back and get the same sweep
summary.csv       a line a run
gradients.nc      norms and measures, run × step × layer × time, lag or the like
figures/          pictures
runs/<run id>/    config.json, status.json, metrics.jsonl, gradients.nc; replay.npz if it diverged
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments import bad_step
from experiments.bad_step import BadStep
from experiments.grid import AXES, Run, Settings, recorded_steps
from experiments.measures import MEASURES, coordinates
from experiments.runner import Record, Result

# sweep.json goes last, so that a folder that was half cleared is still known as a sweep's.
_OURS = ("summary.csv", "gradients.nc", "figures", "runs", "sweep.flags", "sweep.json")
ENDED = ("finished", "diverged")
# Of a step, in metrics.jsonl.
_METRICS = ("loss", "grad_norm", "clipped_norm", "clipped")


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
    # sweep.flags alone is what a sweep leaves that was killed in its first moment.
    rest = sorted(p.name for p in folder.iterdir() if p.suffix != ".tmp")
    if rest and rest != ["sweep.flags"]:
      raise ValueError(
        f"--output_dir must be new, empty, or hold a sweep, got {folder}, which holds '{rest[0]}'."
      )
  elif not overwrite:
    difference = _difference(_read_configuration(folder), configuration)
    if difference:
      raise ValueError(
        f"--output_dir holds another sweep ({difference}), got {folder}; choose another folder, "
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
    _write_text(folder / "sweep.flags", flags)
    _write_json(folder / "sweep.json", {"configuration": configuration, **about})
    return
  before = _read_json(folder / "sweep.json")
  continued = before.get("continued", [])
  now = {name: about[name] for name in ("started", "versions", "devices", "git")}
  last = (continued or [before])[-1]
  if any(last.get(name) != now[name] for name in ("versions", "devices", "git")):
    _write_json(folder / "sweep.json", {**before, "continued": [*continued, now]})


def _is_another(folder: Path, configuration: Mapping[str, Any]) -> bool:
  try:
    return _difference(_read_configuration(folder), configuration) is not None
  except ValueError:  # damaged
    return True


def status(folder: Path, run_id: str) -> dict[str, Any]:
  """The run's status.json, or an empty dict where it has none that can be read."""
  try:
    return _read_json(folder / "runs" / run_id / "status.json")
  except (OSError, ValueError):
    return {}


def has_ended(folder: Path, run_id: str) -> bool:
  """Whether the run has finished or diverged, and its records are whole.

  A run with a file that is missing or was cut short since is done again.
  """
  state = status(folder, run_id)
  return state.get("status") in ENDED and state.get("bytes") == _sizes(folder / "runs" / run_id)


def _sizes(path: Path) -> dict[str, int | None]:
  """Size of each of a run's records; None where it is missing."""
  files = [path / name for name in ("config.json", "metrics.jsonl", "gradients.nc")]
  return {file.name: file.stat().st_size if file.is_file() else None for file in files}


def start_run(folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
  """Notes that a run has begun."""
  path = folder / "runs" / run_id
  path.mkdir(parents=True, exist_ok=True)
  _write_json(path / "status.json", {"status": "running"})
  _write_json(path / "config.json", config)
  (path / "metrics.jsonl").write_text("")


def append_metrics(folder: Path, run_id: str, first_step: int, records: Record) -> None:
  """Adds a line for each of the records' steps to the run's `metrics.jsonl`."""
  columns = [getattr(records, name).tolist() for name in _METRICS]
  lines = [
    json.dumps({"step": step, **dict(zip(_METRICS, values, strict=True))})
    for step, values in enumerate(zip(*columns, strict=True), start=first_step)
  ]
  with (folder / "runs" / run_id / "metrics.jsonl").open("a", encoding="utf-8") as file:
    file.write("".join(line + "\n" for line in lines))


def end_run(
  folder: Path, run_id: str, result: Result, settings: Settings, bad: BadStep | None
) -> None:
  """Writes a run's norms, then its status: one that says `finished` vouches for all the rest.

  Where the run diverged, `bad`, the first bad place of that step is looked for, too.
  """
  path = folder / "runs" / run_id
  place = None
  if bad is not None:
    place = bad_step.find(bad)
    with _replacing(path / "replay.npz") as draft, draft.open("wb") as file:
      bad_step.save(file, bad, place)
  with (path / "metrics.jsonl").open("rb+") as file:
    os.fsync(file.fileno())
  _write_netcdf(path / "gradients.nc", _gradients(result.records, settings))
  _write_json(
    path / "status.json",
    {
      "status": "finished" if result.diverged_step is None else "diverged",
      "diverged_step": result.diverged_step,
      "bad_place": place and {"step": result.diverged_step, **place._asdict()},
      "seconds": round(result.seconds, 3),
      "bytes": _sizes(path),
    },
  )


def write_results(folder: Path, ids: Mapping[str, Run]) -> tuple[xr.Dataset, xr.Dataset]:
  """Gathers the ended runs into `gradients.nc` and `summary.csv`.

  Args:
    folder: of the sweep.
    ids: run by run id, in order; all ended.
  Returns:
    What `read_gradients` and `read_metrics` return.
  """
  parts = [xr.load_dataset(folder / "runs" / name / "gradients.nc") for name in ids]
  gradients = xr.concat(parts, dim="run", join="outer", data_vars="all", coords="minimal")
  gradients = gradients.assign_coords(_run_coordinates(folder, ids)).assign_attrs(_ATTRIBUTES)
  _write_netcdf(folder / "gradients.nc", gradients)
  metrics = read_metrics(folder)
  _write_text(folder / "summary.csv", _summary(gradients, metrics))
  return gradients, metrics


def read_gradients(folder: Path) -> xr.Dataset:
  """`gradients.nc`: norms and measures over run × step × layer × …, axes as coordinates.

  Raises:
    ValueError: the folder does not hold a sweep that has ended.
  """
  path = folder / "gradients.nc"
  if not path.is_file():
    raise ValueError(f"FOLDER must hold a sweep that has ended; there is no {path}.")
  try:
    data = xr.load_dataset(path)
  except (ValueError, TypeError, EOFError):
    data = xr.Dataset()
  if "log10_grad_norm" not in data:
    raise ValueError(f"{path} is damaged; give the sweep's command again to gather it anew.")
  return data


def read_metrics(folder: Path) -> xr.Dataset:
  """Loss, gradient norm before and after clipping, and clipped, over run × update.

  From the runs' `metrics.jsonl`; `Record` says what they are. NaN where there is no such record.

  Raises:
    ValueError: a run has not ended, or a record is damaged.
  """
  _read_configuration(folder)
  about = _read_json(folder / "sweep.json")
  ids = about["runs"]
  for name in ids:
    if not has_ended(folder, name):
      raise ValueError(f"FOLDER must hold a sweep that has ended; run {name} has not, in {folder}.")
  runs = {name: _run_of(_read_json(folder / "runs" / name / "config.json")) for name in ids}
  updates = about["configuration"]["steps"] + 1
  columns = {name: np.full((len(ids), updates), np.nan) for name in _METRICS}
  for i, name in enumerate(ids):
    for text in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines():
      line = json.loads(text)
      for metric, values in columns.items():
        values[i, line["step"]] = line.get(metric, np.nan)
  return xr.Dataset(
    {name: (("run", "update"), values) for name, values in columns.items()},
    {**_run_coordinates(folder, runs), "update": np.arange(updates)},
    {"task": about["configuration"]["task"], **about["task"]},
  )


_ATTRIBUTES = {
  "norms": "log10 of the norm for each example's own loss, mean over the batch",
  "nan": "not measured",
  "minus_inf": "the norm of at least one example is 0 in float32, below 1e-38; inf: above 3e38",
  "log10_grad_norm": "dL/dh_t under the training loss; h_t leaves step t",
  **{name: measure.note for name, measure in MEASURES.items()},
  "_cell": "the same for the cell state, at fixed hidden state; without it, the hidden state",
  "truncation": "inf: full backpropagation through time",
  "clip_norm": "inf: no clipping",
  "clipped_share": (
    "with clip_by carry, the share of examples whose dL/dh_t, all leaves of the carry together, "
    "was above clip_norm, and was scaled to it before it went on to earlier steps; log10_grad_norm "
    "is from before that. The other ways to clip act on the params' gradient, not in time"
  ),
}


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


def _run_coordinates(folder: Path, ids: Mapping[str, Run]) -> dict[str, Any]:
  """Axes, status and step of divergence along `run`."""

  def number(value: float | None, none: float) -> float:
    return none if value is None else float(value)

  runs, states = list(ids.values()), [status(folder, name) for name in ids]
  columns = {
    "cell": [r.cell for r in runs],
    "depth": np.array([r.depth for r in runs], np.int32),
    "truncation": [number(r.truncation, np.inf) for r in runs],
    "seed": np.array([r.seed for r in runs], np.int32),
    "learning_rate": [r.learning_rate for r in runs],
    "clip_norm": [number(r.clip_norm, np.inf) for r in runs],
    "clip_by": [r.clip_by for r in runs],
    "recurrent_gain": [r.recurrent_gain for r in runs],
    "forget_bias": [number(r.forget_bias, np.nan) for r in runs],
    "status": [state["status"] for state in states],
    "diverged_step": [number(state["diverged_step"], np.nan) for state in states],
  }
  return {"run": list(ids), **{name: ("run", column) for name, column in columns.items()}}


def _run_of(config: Mapping[str, Any]) -> Run:
  # Records from before there were several ways to clip do not name one.
  return Run(**{name: config[name] for name in AXES if name in config})


def _summary(gradients: xr.Dataset, metrics: xr.Dataset) -> str:
  """A line a run, with nothing in it that differs from one execution to the next.

  The final loss is the mean of the last tenth of the steps, so NaN for a run that diverged.
  """
  tail = max(1, metrics.sizes["update"] // 10)
  rows = []
  for name in metrics["run"].values:
    run, norms = metrics.sel(run=name), gradients.sel(run=name)
    loss, grad_norm = run["loss"].values, run["grad_norm"].values
    far = _farthest(norms)
    rows.append(
      {
        "run": name,
        **{axis: run[axis].item() for axis in AXES},
        "status": run["status"].item(),
        "diverged_step": run["diverged_step"].item(),
        "first_loss": loss[0],
        "final_loss": np.nan if run["status"] == "diverged" else loss[-tail:].mean(),
        "baseline": metrics.attrs["baseline"],
        "largest_grad_norm": max(grad_norm[~np.isnan(grad_norm)], default=np.nan),
        "clipped_steps": int((run["clipped"].values > 0).sum()),
        "zero_grad_norm_steps": int((grad_norm == 0).sum()),
        "log10_lag_norm_before": far[0],
        "log10_lag_norm_after": far[-1],
      }
    )
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _farthest(norms: xr.Dataset) -> np.ndarray:
  """log₁₀ norm at the largest lag in layer 1, at each step; NaN if lags were not measured."""
  if "log10_lag_norm" not in norms:
    return np.full(norms.sizes["step"], np.nan)
  return norms["log10_lag_norm"].isel(layer=0, lag=-1).values


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
  for name in theirs:
    if ours.get(name) != theirs[name]:
      return f"its {name} is {json.dumps(ours.get(name))}, not {json.dumps(theirs[name])}"
  return None


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
  """A name to write to, which takes the place of `path` once it is whole."""
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(path.name + ".tmp")
  yield draft
  with draft.open("rb+") as file:
    os.fsync(file.fileno())
  draft.replace(path)


def _write_text(path: Path, text: str) -> None:
  with _replacing(path) as draft:
    draft.write_text(text, encoding="utf-8")


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
  _write_text(path, json.dumps(data, indent=2) + "\n")


def _write_netcdf(path: Path, data: xr.Dataset) -> None:
  with _replacing(path) as draft:
    data.to_netcdf(draft, engine="scipy")


def _read_json(path: Path) -> dict[str, Any]:
  try:
    data = json.loads(path.read_bytes())
  except ValueError:
    data = None
  if not isinstance(data, dict):
    raise ValueError(f"{path} is damaged: it must hold a JSON object.")
  return data


def _read_configuration(folder: Path) -> dict[str, Any]:
  """What the sweep in the folder was asked to do."""
  path = folder / "sweep.json"
  about = _read_json(path)
  parts = about.get("configuration"), about.get("task"), about.get("runs")
  if [type(part) for part in parts] != [dict, dict, list]:
    raise ValueError(f"{path} is damaged: it must hold configuration, task and runs.")
  return about["configuration"]
