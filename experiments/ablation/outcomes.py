"""The outcomes of a sweep's runs, from its records: loss, decay of the gradient, divergence.

Measures of the gradient's decay are those of layer 1, at the last step.
"""

from __future__ import annotations

import re

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.ablation.study import Outcome

_HELD_OUT = re.compile("held_out_(loss|accuracy)(?:_([0-9]+))?")
Values = Float[np.ndarray, " run"]


def largest_lag(gradients: xr.Dataset) -> int | None:
  """Returns the largest lag that was measured in all runs that finished; None if there is none."""
  lags = _largest_lags(gradients)
  finished = lags[gradients["status"].values != "diverged"]
  return int(finished.min()) if finished.size and finished.min() > 0 else None


def outcomes(gradients: xr.Dataset, metrics: xr.Dataset, lag: int | None) -> list[Outcome]:
  """Returns the outcomes that are recorded.

  Args:
    gradients, metrics: records of a sweep, from `gathered.read`.
    lag: lag at which the lost decades are taken; None to leave them out.
  """
  diverged = metrics["status"].values == "diverged"
  return [
    *_losses(metrics, diverged),
    *_decay(gradients, diverged, lag),
    *_divergence(metrics, diverged),
  ]


def _losses(metrics: xr.Dataset, diverged: np.ndarray) -> list[Outcome]:
  """Returns the losses and accuracies; those of a run that diverged are worse than any other."""
  unit = str(metrics.attrs.get("loss_unit", ""))
  loss = metrics["loss"].transpose("run", "update").values.astype(float)
  counts = np.count_nonzero(~np.isnan(loss), axis=1)
  last = np.maximum(counts - 1, 0)[:, None]
  found = [_measured("final_training_loss", "final training loss", unit, -1, _tails(loss, counts))]
  for name in map(str, metrics.data_vars):
    match = _HELD_OUT.fullmatch(name)
    if match:
      label = f"held-out {match[1]}" + (f", sequence length {match[2]}" if match[2] else "")
      values = metrics[name].transpose("run", "update").values.astype(float)
      values = np.take_along_axis(values, last, axis=1)[:, 0]
      is_loss = match[1] == "loss"
      found.append(_measured(name, label, unit if is_loss else "", -1 if is_loss else 1, values))
  return [_replaced(o, diverged, -o.better * np.inf, -o.better * np.inf) for o in found]


def _measured(name: str, label: str, unit: str, better: int, values: Values) -> Outcome:
  """Returns an outcome of which nothing is known where the value is NaN."""
  outcome = Outcome(name, label, unit, better, values, values)
  return _replaced(outcome, np.isnan(values), -np.inf, np.inf)


def _replaced(outcome: Outcome, runs: np.ndarray, low: float, high: float) -> Outcome:
  """Returns the outcome with the given bounds for some runs."""
  return outcome._replace(
    low=np.where(runs, low, outcome.low), high=np.where(runs, high, outcome.high)
  )


def _tails(loss: Float[np.ndarray, "run update"], counts: np.ndarray) -> Values:
  """Returns the mean loss over the last tenth of each run's updates, of which it has `counts`."""
  rows = zip(loss, counts, strict=True)
  tails = [row[:count][-max(1, count // 10) :] for row, count in rows]
  return np.array([tail.mean() if tail.size else np.nan for tail in tails])


def _last(values: Float[np.ndarray, "run step"]) -> Values:
  """Returns the last value of each run that is not NaN; NaN if there is none."""
  measured = ~np.isnan(values)
  last = measured.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
  return np.take_along_axis(values, last[:, None], axis=1)[:, 0]


def _bottom(gradients: xr.Dataset, name: str) -> Float[np.ndarray, "run step ..."]:
  values = gradients[name]
  values = values.sel(layer=1) if "layer" in values.dims else values
  return values.transpose("run", "step", ...).values.astype(float)


def _last_profiles(gradients: xr.Dataset) -> Float[np.ndarray, "run lag"]:
  """Returns the last measured lag profile of each run; NaN beyond its sequence length."""
  profiles = _bottom(gradients, "log10_lag_norm")
  measured = ~np.isnan(profiles).all(axis=2)
  last = measured.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
  return profiles[np.arange(len(profiles)), last]


def _largest_lags(gradients: xr.Dataset) -> Values:
  """Returns the largest lag that was measured in each run; −1 if none was."""
  if "log10_lag_norm" not in gradients:
    return np.full(gradients.sizes["run"], -1.0)
  measured = ~np.isnan(_last_profiles(gradients))
  lags = gradients["lag"].values.astype(float)
  return np.where(measured, lags, -1.0).max(axis=1)


def _decay(gradients: xr.Dataset, diverged: np.ndarray, lag: int | None) -> list[Outcome]:
  """Returns decay rate, decades lost and effective memory; unknown of a run that diverged."""
  found = []
  if "decay_rate" in gradients:
    rate = _last(_bottom(gradients, "decay_rate"))
    found.append(_measured("decay_rate", "decay rate", "nats per time step", 1, rate))
  if "log10_lag_norm" in gradients and lag is not None:
    profiles = _last_profiles(gradients)
    at = {int(value): i for i, value in enumerate(gradients["lag"].values)}
    with np.errstate(invalid="ignore"):  # −inf − −inf: both norms are 0
      lost = profiles[:, at[0]] - profiles[:, at[lag]]
    found.append(_measured(f"decades_lost_{lag}", f"decades lost at lag {lag}", "", -1, lost))
  if "effective_memory" in gradients:
    memory = _last(_bottom(gradients, "effective_memory"))
    beyond = np.isposinf(memory)
    outcome = _measured("effective_memory", "effective memory", "time steps", 1, memory)
    low = np.where(beyond, _largest_lags(gradients) + 1, outcome.low)
    found.append(outcome._replace(low=low))
  return [_replaced(outcome, diverged, -np.inf, np.inf) for outcome in found]


def _divergence(metrics: xr.Dataset, diverged: np.ndarray) -> list[Outcome]:
  """Returns whether a run diverged, and at which step: after its last step if it finished."""
  loss = metrics["loss"].transpose("run", "update").values
  steps = np.count_nonzero(~np.isnan(loss), axis=1).astype(float)
  first = metrics["diverged_step"].values.astype(float)
  share = diverged.astype(float)
  return [
    Outcome("diverged", "share of runs that diverged", "", -1, share, share),
    Outcome(
      "diverged_step",
      "step of divergence",
      "",
      1,
      np.where(diverged, first, steps),
      np.where(diverged, first, np.inf),
    ),
  ]
