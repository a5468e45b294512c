"""Reads all records of a sweep into one self-describing dataset, for `experiments.open_sweep`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.networks.cell_options import value_text
from experiments.runtime import files
from experiments.sweep.config.runs import run_of
from experiments.sweep.measures.table import MEASURES
from experiments.sweep.records import gathered
from experiments.sweep.records.run_files import DONE
from experiments.sweep.records.run_index import RunIndex
from experiments.sweep.records.sweep_folder import is_text, read_sweep

_STEPS = "optimization steps"
_TIME = "time steps"
_LOSS = "loss"  # stands for the unit of the task's loss
_NORMS = (
  "log10 of the norm for each example's own loss, averaged over the batch. -inf: the norm of at "
  "least one example is 0 in float32, below 1e-38; inf: above 3e38. NaN: not measured."
)
# {name: (what it is, unit, convention)}. Texts have no unit. A unit of "1" marks a plain number.
_ENDED = "NaN: after the run's end."
_LEAF = "Gradient with respect to the carry's {}, with its other parts held fixed."
_QUANTITIES = {
  # Dimensions.
  "run": ("id of the run", "", "The settings of a run are coordinates along this dimension."),
  "step": ("optimization step of a record", _STEPS, "Recorded before the step's update."),
  "update": ("optimization step", _STEPS, "Computed before the step's update."),
  "layer": ("layer", "1", "1: the layer that reads the inputs."),
  "time": ("time t", _TIME, "From 0. h_t is the carry after step t."),
  "lag": ("lag k", _TIME, "From 0. Lag k is time step T-1-k, k steps before the last one."),
  "share_lag": (
    "lag of a share of the gradient",
    _TIME,
    "From 0. The last entry holds all further lags.",
  ),
  "exponent": ("index of the Lyapunov exponent", "1", "1: the largest exponent."),
  "reach": ("truncation whose gradient is compared", _TIME, ""),
  # Settings of a run.
  "cell": ("cell", "", ""),
  "depth": ("number of recurrent layers", "1", ""),
  "truncation": ("truncation", _TIME, "inf: full backpropagation through time."),
  "gradient": ("gradient estimator", "", "A value of --gradient."),
  "seed": ("seed of the params and of the data", "1", ""),
  "learning_rate": ("learning rate", "1", ""),
  "clip_norm": ("norm above which gradients are clipped", "1", "inf: no clipping."),
  "clip_by": ("what is clipped", "", "A value of --clip_by."),
  "recurrent_gain": (
    "factor on the recurrent kernels at initialization",
    "1",
    "NaN: the cell does not have it, or it has no effect.",
  ),
  "forget_bias": (
    "bias of the forget gate at initialization",
    "1",
    "NaN: the cell does not have it, or it has no effect.",
  ),
  "options": ("cell options as given", "", "The cell's other options have their defaults."),
  "hidden_size": ("hidden size of every layer", "1", ""),
  "task": ("task", "", ""),
  "sequence_length": ("sequence length", _TIME, ""),
  "batch_size": ("sequences in a batch", "1", ""),
  "steps": ("optimization steps of the run", _STEPS, ""),
  "optimizer": ("optimizer", "", ""),
  "dtype": ("precision of the network in training", "", "Measures are computed in float32."),
  "loss_scale": ("factor on the loss", "", "A number as text, dynamic, or none."),
  "layer_norm": ("whether the inputs of the second and later layers are normalized", "", ""),
  "residual": ("whether the second and later layers add their input to their output", "", ""),
  "dropout": ("dropout rate between layers", "1", "0: no dropout."),
  "zoneout": ("probability that a unit keeps its previous carry", "1", "0: no zoneout."),
  "schedule": ("how the learning rate falls", "", "A value of --schedule."),
  "warmup": ("optimization steps over which the learning rate grows", _STEPS, "0: no warm-up."),
  "momentum": ("momentum of the optimizer", "1", "0: no momentum. adam has its own."),
  "weight_decay": ("decoupled weight decay", "1", "0: no weight decay."),
  "omega_penalty": ("weight of Pascanu's Ω in the objective", "1", "0: not in the objective."),
  "spectral_penalty": ("weight of (spectral radius - 1)²", "1", "0: not in the objective."),
  "flossing": ("weight of the squared Lyapunov exponents", "1", "0: not in the objective."),
  "flossing_exponents": ("Lyapunov exponents of each layer that are flossed", "1", "NaN: none."),
  "flossing_steps": ("steps of gradient flossing before training", _STEPS, ""),
  "initialization": ("how the params are drawn", "", "A value of --initialization."),
  # What became of a run.
  "baseline": ("loss of a model that ignores its inputs", _LOSS, ""),
  "status": ("status", "", "finished or diverged."),
  "diverged_step": (
    "first step whose loss, gradient norm or updated params are not finite",
    _STEPS,
    "NaN: the run did not diverge.",
  ),
  # Metrics.
  "loss": ("training loss", _LOSS, f"The mean over the step's batch. {_ENDED}"),
  "grad_norm": ("global gradient norm before clipping", "1", _ENDED),
  "clipped_norm": ("global gradient norm after clipping", "1", _ENDED),
  "clipped": (
    "whether the gradient was clipped",
    "1",
    f"1: clipped, 0: not. With clip_by carry, the share of all dL/dh_t that were clipped. {_ENDED}",
  ),
  "held_out_loss": ("held-out loss", _LOSS, "NaN: not evaluated at this step."),
  "held_out_accuracy": ("held-out accuracy", "1", "NaN: not evaluated at this step."),
  # Gradients. `MEASURES` describes the variables of the measures.
  "log10_grad_norm": (
    "log10 of the gradient norm of the training loss",
    "1",
    f"dL/dh_t under the training loss; h_t is the carry after step t. {_NORMS} With another dtype, "
    "-inf and inf are where all of dL/dh_t, times the loss scale, is 0 or overflows in that dtype.",
  ),
  "clipped_share": (
    "share of examples whose dL/dh_t was clipped",
    "1",
    "With clip_by carry. log10_grad_norm is taken before clipping.",
  ),
}


def open_sweep(folder: str | Path, partial: bool = False) -> xr.Dataset:
  """Returns the records of a sweep as one dataset; `experiments.open_sweep` describes it."""
  folder = Path(folder)
  gradients, metrics, states = gathered.read(folder, partial)
  # The metrics may have coordinates along `run` that the gradients lack.
  data = gradients.assign(metrics.data_vars).assign_coords(dict(metrics.coords))
  for name, variable in data.variables.items():
    variable.attrs = _attributes(str(name), variable.dtype, metrics.attrs["loss_unit"])
  data = data.assign_coords(_option_coordinates(folder, data))
  done, failed = (
    sum(state.get("status") in kinds for state in states.values()) for kinds in (DONE, ("failed",))
  )
  data.attrs = {
    **_flat(read_sweep(folder)),
    **metrics.attrs,
    "num_runs": len(states),
    "num_failed_runs": failed,
    "num_missing_runs": len(states) - done - failed,
  }
  settings = [name for name, own in data.coords.items() if own.dims == ("run",) and name != "run"]
  return data.drop_indexes("run").set_xindex(["run", *settings], RunIndex)


def _attributes(name: str, dtype: np.dtype, loss_unit: str) -> dict[str, str]:
  """Returns the attributes of a variable: `long_name`, and `units` and `description` if any."""
  long_name, unit, description = _quantity(name)
  if unit == _LOSS:
    unit = loss_unit
  found = {
    "long_name": long_name,
    "units": unit if dtype.kind in "fiu" else "",
    "description": description,
  }
  return {key: text for key, text in found.items() if text}


def _quantity(name: str) -> tuple[str, str, str]:
  """Returns what a variable is, its unit and its convention, as in `_QUANTITIES`."""
  known = dict(_QUANTITIES)
  for measure in MEASURES.values():
    known |= {own: (*texts, measure.note) for own, texts in measure.quantities.items()}
  known["log10_lag_norm"] = (*known["log10_lag_norm"][:2], f"{MEASURES['lag'].note}. {_NORMS}")
  if name in known:
    return known[name]
  base = max((own for own in known if name.startswith(f"{own}_")), key=len, default=None)
  if base is None:  # a variable that only its measure knows
    return name.replace("_", " "), "1", ""
  long_name, unit, description = known[base]
  suffix = name.removeprefix(f"{base}_")
  if base.startswith("held_out"):
    return f"{long_name} at sequence length {suffix}", unit, description
  leaf = suffix.replace("_", " ")
  return (
    f"{long_name}, with respect to the carry's {leaf}",
    unit,
    f"{description} {_LEAF.format(leaf)}",
  )


def _option_coordinates(folder: Path, data: xr.Dataset) -> dict[str, xr.Variable]:
  """Returns a coordinate along `run` for each cell option that any run was given."""
  configs = (folder / "runs" / str(name) / "config.json" for name in data["run"].values)
  options = [dict(run_of(files.read_json(path)).options) for path in configs]
  coordinates = {}
  for name in sorted({name for own in options for name in own}):
    given = [own.get(name) for own in options]
    values = _column(given)
    described = {"long_name": f"cell option {name}"}
    if values.dtype.kind == "f":
      bools = " 1: true, 0: false." * any(isinstance(value, bool) for value in given)
      described |= {"units": "1", "description": f"NaN: none, or not given.{bools}"}
    elif None in given:
      described["description"] = "Empty: none, or not given."
    # A cell may have an option of the same name as another variable.
    label = f"cell_option_{name}" if name in data.variables else name
    coordinates[label] = xr.Variable("run", values, described)
  return coordinates


def _column(values: Sequence[Any]) -> np.ndarray:
  """Returns an option's values as an array of bools, floats or texts.

  The value None becomes NaN among numbers, and an empty text among texts. Bools become numbers if
  some values are None or numbers.
  """
  if all(isinstance(value, bool) for value in values):
    return np.array(values)
  if all(isinstance(value, int | float | None) for value in values):
    return np.array([np.nan if value is None else float(value) for value in values])
  return np.array(["" if value is None else value_text(value) for value in values])


def _flat(about: Mapping[str, Any]) -> dict[str, str | int | float]:
  """Returns the contents of `sweep.json` as attributes that NetCDF can hold.

  The entries of a group, such as `versions`, become `versions_jax` and so on; those of the
  configuration keep their names. Bools become 0 or 1, and lists of one value that value. Other
  lists, groups in groups, and groups of files become JSON. What the runs' coordinates say is left
  out.
  """
  flat: dict[str, str | int | float] = {}
  for name, value in about.items():
    if name in ("runs", "task", "tasks", "sha256"):
      continue
    if isinstance(value, dict) and all(key.isidentifier() for key in value):
      prefix = "" if name == "configuration" else f"{name}_"
      flat |= {f"{prefix}{key}": _attribute(own) for key, own in value.items()}
    elif name.isidentifier():
      flat[name] = _attribute(value)
  return flat


def _attribute(value: Any) -> str | int | float:
  """Returns a JSON value as a number or printable text."""
  if isinstance(value, list) and len(value) == 1:
    return _attribute(value[0])
  if value is None or is_text(value):
    return "none" if value is None else value
  if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
    return value * 1  # an int, if it is a bool
  return json.dumps(value)
