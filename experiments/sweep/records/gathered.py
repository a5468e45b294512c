"""Gathers the records of a sweep's runs into `gradients.nc` and `summary.csv`.

Runs that finished or diverged have records. A failed run has none, because it could not be trained.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.cli import plugins
from experiments.networks.cell_options import options_text, value_text
from experiments.runtime import files, memory
from experiments.sweep.config.grid import AXES
from experiments.sweep.config.runs import run_of
from experiments.sweep.measures.table import MEASURES
from experiments.sweep.records import run_gradients
from experiments.sweep.records.run_files import DONE, ENDED, METRICS, Status, statuses
from experiments.sweep.records.sweep_folder import is_text, read_sweep, sweep_tasks

# The names of metrics on held-out data; the suffix is a sequence length other than the run's own.
_HELD_OUT = re.compile("held_out_(loss|accuracy)(?:_([1-9][0-9]{0,9}))?")
_LONGEST_LINE = 1024  # bytes per line of metrics.jsonl, of which the lines that we write need 200


def write(folder: Path, states: Mapping[str, Status]) -> tuple[xr.Dataset, xr.Dataset]:
  """Writes `gradients.nc` and `summary.csv` from the records of all runs.

  Args:
    folder: the sweep's folder.
    states: each run's status by its id, in the sweep's order. Each run must have finished,
      diverged or failed, and not all may have failed. `summary.csv` lists failed runs too;
      `gradients.nc` leaves them out.
  Returns:
    (gradients, metrics), as from `read`.
  """
  gradients, metrics = _gather(folder, states, read_sweep(folder))
  _write_gradients(folder / "gradients.nc", gradients)
  files.write_text(folder / "summary.csv", _summary(folder, states, gradients, metrics))
  return gradients, metrics


def _write_gradients(path: Path, gradients: xr.Dataset) -> None:
  """Writes compressed NetCDF 4, because a variable may exceed the 4 GiB that NetCDF 3 allows.

  Equal datasets give byte-identical files, because h5netcdf stores no timestamps.
  """
  compression = {"zlib": True, "complevel": 1, "shuffle": True}
  encoding = {name: compression for name, a in gradients.data_vars.items() if a.dtype.kind == "f"}
  with files.replacing(path) as draft:
    gradients.to_netcdf(draft, engine="h5netcdf", encoding=encoding)


def read(folder: Path, partial: bool = False) -> tuple[xr.Dataset, xr.Dataset, dict[str, Status]]:
  """Reads the records of a completed sweep from the runs' own files, which have checksums.

  Args:
    folder: the sweep's folder.
    partial: whether the sweep may be unfinished; its records are then those of the runs that are
      done. The status of a run that has not started, or whose record is damaged, is {}.
  Returns:
    (gradients, metrics, states). The gradients equal the sweep's `gradients.nc`: norms and measures
    of all runs that did not fail, with axes (run, step, layer, …). The metrics have the axes
    (run, update): the loss, the gradient norm before and after clipping, `clipped`, and the loss
    and accuracy on held-out data, all defined in `Record`. Entries that a run lacks, such as those
    after it diverged, are NaN. In both, coordinates along `run` hold each run's settings and
    status. The states are the status of each run by its id, failed runs included.
  Raises:
    ValueError: if the folder holds no sweep, if a run is unfinished and `partial` is False, if no
      run is done, or if a record is damaged.
  """
  if not (folder / "sweep.json").is_file():
    raise ValueError(f"FOLDER must hold a completed sweep, got {folder}, which holds no sweep.")
  about = read_sweep(folder)
  states = statuses(folder, about["runs"])
  if not partial:
    _check_done(folder, states)
  elif not any(state.get("status") in DONE for state in states.values()):
    raise ValueError(
      f"FOLDER must hold a run that has finished or diverged, but none of the {len(states)} runs "
      f"in {folder} has."
    )
  return *_gather(folder, states, about), states


class UnfinishedError(ValueError):
  """The error of reading a sweep with an unfinished run, unless its records may be partial."""


def _check_done(folder: Path, states: Mapping[str, Status]) -> None:
  """Raises a ValueError if a run is unfinished, or if all runs have failed."""
  if all(state.get("status") == "failed" for state in states.values()):
    raise ValueError(f"FOLDER must hold a completed sweep, but all runs in {folder} have failed.")
  for name, state in states.items():
    if state.get("status") not in ENDED:
      raise UnfinishedError(
        f"FOLDER must hold a completed sweep, but run {name} in {folder} is unfinished or damaged. "
        f"To finish it: python -m experiments.sweep --flagfile={folder / 'sweep.flags'} "
        f"--output_dir={folder}"
      )


def _gather(
  folder: Path, states: Mapping[str, Status], about: Mapping[str, Any]
) -> tuple[xr.Dataset, xr.Dataset]:
  """Returns the gradients and metrics of the runs that are done.

  `about` is the contents of `sweep.json`.
  """
  done = {name: state for name, state in states.items() if state.get("status") in DONE}
  coordinates = _run_coordinates(folder, done)
  tasks = zip(coordinates["task"][1], coordinates["sequence_length"][1], strict=True)
  known = sweep_tasks(about)
  coordinates["baseline"] = "run", [known.get(key, ("", np.nan))[1] for key in tasks]
  metrics = _gather_metrics(folder, done, coordinates)
  metrics = metrics.assign_attrs(task_attributes(metrics, [about]))
  selected = about["configuration"].get("select")
  note = {} if selected is None else {"selected": str(selected)}
  try:
    gradients = _gather_gradients(folder, done, coordinates)
  except ValueError:  # perhaps since a measure from elsewhere has dimensions of its own
    plugins.check_imported(str(folder), about["configuration"])
    raise
  return gradients.assign_attrs(note), metrics.assign_attrs(note)


def task_attributes(metrics: xr.Dataset, abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the attributes `task`, `loss_unit` and `baseline` of metrics.

  Texts in which the runs differ are joined; a baseline in which they differ is NaN.

  Args:
    metrics: the metrics of some runs.
    abouts: the contents of the `sweep.json` of each sweep that they are from.
  """
  known = {key: found for about in abouts for key, found in sweep_tasks(about).items()}
  tasks = metrics["task"].values.tolist()
  lengths = metrics["sequence_length"].values.tolist()
  units, baselines = zip(
    *(known.get(key, ("", np.nan)) for key in zip(tasks, lengths, strict=True)), strict=True
  )
  return {
    "task": ", ".join(dict.fromkeys(tasks)),
    "loss_unit": " or ".join(dict.fromkeys(units)),
    "baseline": baselines[0] if len(set(baselines)) == 1 else np.nan,
  }


def _gather_metrics(
  folder: Path, ids: Collection[str], coordinates: Mapping[str, Any]
) -> xr.Dataset:
  steps = coordinates["steps"][1]
  updates = int(max(steps)) + 1
  # A record from elsewhere may give any number of steps.
  memory.check(
    2 * len(METRICS) * len(ids) * updates,
    f"The metrics of {len(ids)} runs and {updates} updates in {folder}",
    "they need",
  )
  columns = {name: np.full((len(ids), updates), np.nan) for name in METRICS}
  for i, (name, last) in enumerate(zip(ids, steps, strict=True)):
    with _reading(folder / "runs" / name / "metrics.jsonl") as path:
      for text in files.read_bytes(path, _LONGEST_LINE * (last + 1)).decode().splitlines():
        line = json.loads(text)
        step = line["step"]
        if not 0 <= step <= last:
          raise ValueError(f"step must be from 0 to {last}, got {step}")
        for metric, value in line.items():
          if metric in METRICS or _HELD_OUT.fullmatch(metric):
            if metric not in columns:
              columns[metric] = np.full((len(ids), updates), np.nan)
            columns[metric][i, step] = value
  held_out = sorted(columns.keys() - set(METRICS), key=_by_length)
  return xr.Dataset(
    {name: (("run", "update"), columns[name]) for name in (*METRICS, *held_out)},
    {**coordinates, "update": np.arange(updates)},
  )


def _by_length(name: str) -> tuple[int, bool]:
  """Returns a sort key of a held-out metric: by sequence length, the loss before the accuracy."""
  match = _HELD_OUT.fullmatch(name)
  assert match is not None
  return int(match[2] or 0), match[1] != "loss"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Path]:
  """Turns any exception in the `with` block, except OSError, into a ValueError naming the file."""
  try:
    yield path
  except OSError:
    raise
  except Exception as error:  # damaged files raise exceptions of many types
    raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


def _gather_gradients(
  folder: Path, ids: Collection[str], coordinates: Mapping[str, Any]
) -> xr.Dataset:
  parts = []
  for name in ids:
    with _reading(folder / "runs" / name / "gradients.nc") as path:
      parts.append(run_gradients.read(path))
  along, variables = run_gradients.gather(parts, f"The gradients of {len(parts)} runs in {folder}")
  return xr.Dataset(variables, {**along, **coordinates}, _attributes())


def _attributes() -> dict[str, str]:
  """Returns the attributes of the gradients: the conventions of their names and values."""
  return {
    "norms": "log10 of the norm for each example's own loss, averaged over the batch",
    "nan": "not measured",
    "minus_inf": "the norm of at least one example is 0 in float32, below 1e-38; inf: above 3e38",
    "log10_grad_norm": "dL/dh_t under the training loss; h_t leaves step t",
    **{name: measure.note for name, measure in MEASURES.items()},
    "_cell": "by the cell state, at fixed hidden state; names without _cell: by the hidden state",
    "truncation": "inf: full backpropagation through time",
    "clip_norm": "inf: no clipping",
    "recurrent_gain, forget_bias": "nan: the cell does not have it, or it has no effect",
    "options": "cell options as given; the others have their defaults",
    "clipped_share": (
      "with clip_by carry, the share of examples whose dL/dh_t, over all leaves of the carry, "
      "exceeded clip_norm and was scaled down to it before it was passed to earlier steps; "
      "log10_grad_norm is taken before. The other ways to clip act on the params' gradient"
    ),
  }


def _run_coordinates(folder: Path, states: Mapping[str, Status]) -> dict[str, Any]:
  """Returns the coordinates of dimension `run`: settings, status, and step of divergence."""
  axes = [_axes(folder, name) for name in states]
  columns: dict[str, Any] = {name: [row[name] for row in axes] for name in axes[0]}
  columns["status"] = [state["status"] for state in states.values()]
  columns["diverged_step"] = [_number(s["diverged_step"], np.nan) for s in states.values()]
  return {"run": list(states), **{name: ("run", column) for name, column in columns.items()}}


def _axes(folder: Path, name: str) -> dict[str, object]:
  """Returns a run's settings by name, read from the run's config.json."""
  with _reading(folder / "runs" / name / "config.json") as path:
    run = run_of(files.read_json(path))
    options = options_text(run.options)
    loss_scale = "none" if run.loss_scale is None else value_text(run.loss_scale)
    texts = run.cell, run.clip_by, options, run.task, run.optimizer, run.gradient, run.schedule
    if not all(map(is_text, (*texts, run.initialization, run.dtype, loss_scale))):
      raise TypeError(
        "cell, clip_by, options, task, optimizer, gradient, schedule, initialization, dtype and "
        f"loss_scale must be text without control characters, got {run}"
      )
    if not isinstance(run.steps, int) or not 0 <= run.steps < 2**31:
      raise TypeError(f"steps must be an integer from 0 to {2**31 - 1}, got {run.steps}")
    if run.hidden_size is None:
      raise TypeError("hidden_size is missing")
    flossed = run.flossing > 0 or run.flossing_steps > 0
    return {
      "cell": run.cell,
      "depth": np.int32(run.depth),
      "truncation": _number(run.truncation, np.inf),
      "seed": np.int32(run.seed),
      "learning_rate": float(run.learning_rate),
      "clip_norm": _number(run.clip_norm, np.inf),
      "clip_by": run.clip_by,
      "recurrent_gain": _number(run.recurrent_gain, np.nan),
      "forget_bias": _number(run.forget_bias, np.nan),
      "options": options,
      "hidden_size": np.int32(run.hidden_size),
      "task": run.task,
      "sequence_length": np.int32(run.sequence_length),
      "batch_size": np.int32(run.batch_size),
      "steps": np.int32(run.steps),
      "optimizer": run.optimizer,
      "dtype": run.dtype,
      "loss_scale": loss_scale,
      "layer_norm": bool(run.layer_norm),
      "residual": bool(run.residual),
      "dropout": float(run.dropout),
      "zoneout": float(run.zoneout),
      "gradient": run.gradient,
      "schedule": run.schedule,
      "warmup": np.int32(run.warmup),
      "momentum": float(run.momentum),
      "weight_decay": float(run.weight_decay),
      "omega_penalty": float(run.omega_penalty),
      "spectral_penalty": float(run.spectral_penalty),
      "flossing": float(run.flossing),
      "flossing_exponents": _number(run.flossing_exponents if flossed else None, np.nan),
      "flossing_steps": np.int32(run.flossing_steps),
      "initialization": run.initialization,
    }


def _number(value: int | float | None, none: float) -> float:
  return none if value is None else float(value)


def _summary(folder: Path, ids: Iterable[str], gradients: xr.Dataset, metrics: xr.Dataset) -> str:
  """Returns the text of `summary.csv`, one line for each run.

  The text holds no dates or durations, so that equal records give equal text. A failed run's line
  holds only the run's settings and status.
  """
  rows = {str(row["run"]): row for row in _rows(gradients, metrics)}
  text = io.StringIO()
  writer = csv.DictWriter(text, list(next(iter(rows.values()))), lineterminator="\n")
  writer.writeheader()
  for name in ids:
    writer.writerow(rows.get(name) or {"run": name, **_axes(folder, name), "status": "failed"})
  return text.getvalue()


def _rows(gradients: xr.Dataset, metrics: xr.Dataset) -> Iterator[dict[str, object]]:
  """Yields the line of `summary.csv` for each run that did not fail.

  `final_loss` is the mean loss over the last tenth of the run's updates; NaN if the run diverged.
  The held-out metrics are those at the run's last step.
  """
  names = ("run", *AXES, "options", "status", "diverged_step", "baseline")
  settings = [metrics[name].values.tolist() for name in names]
  held_out = [str(name) for name in metrics.data_vars if _HELD_OUT.fullmatch(str(name))]
  numbers = [metrics[name].values for name in ("loss", "grad_norm", "clipped", *held_out)]
  steps = gradients["step"].values
  lines = zip(*settings, strict=True), zip(*numbers, _farthest(gradients), strict=True)
  for known, (loss, grad_norm, clipped, *scores, far) in zip(*lines, strict=True):
    row = dict(zip(names, known, strict=True))
    baseline, last = row.pop("baseline"), row["steps"]
    tail = loss[: last + 1][-max(1, (last + 1) // 10) :]
    yield {
      **row,
      "first_loss": loss[0],
      "final_loss": np.nan if row["status"] == "diverged" else tail.mean(),
      **{name: score[last] for name, score in zip(held_out, scores, strict=True)},
      "baseline": baseline,
      "largest_grad_norm": max(grad_norm[~np.isnan(grad_norm)], default=np.nan),
      "clipped_steps": int((clipped > 0).sum()),
      "zero_grad_norm_steps": int((grad_norm == 0).sum()),
      "log10_lag_norm_before": far[0],
      "log10_lag_norm_after": far[np.searchsorted(steps, last)],
    }


def _farthest(gradients: xr.Dataset) -> Float[np.ndarray, "run step"]:
  """Returns layer 1's `log10_lag_norm` at each run's largest lag.

  The value is NaN at steps that are not measured.
  """
  if "log10_lag_norm" not in gradients:
    return np.full((gradients.sizes["run"], gradients.sizes["step"]), np.nan)
  norms = gradients["log10_lag_norm"].isel(layer=0)
  return norms.sel(lag=gradients["sequence_length"] - 1).transpose("run", "step").values
