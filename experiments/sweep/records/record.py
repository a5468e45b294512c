"""The types in which training returns its results: `Record`, `Snapshot`, `Result` and `Partial`.

A round is a set of runs that are trained at the same time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from experiments.sweep.config.runs import Run, Settings
from rnn_jax.gradient_flow import NonFinite, describe_nonfinite
from rnn_jax.tasks import Batch
from rnn_jax.types import Array, Number, Params


class Record(NamedTuple):
  """The record of one training step, measured before the step's update of the params.

  Attributes:
    loss: mean training loss of the step's batch.
    grad_norm: global gradient norm before clipping.
    clipped_norm: global gradient norm after clipping.
    clipped: 1 if the gradient was clipped, else 0. With `--clip_by=carry`, the share of all dL/dh_t
      (over examples, layers and time steps) that were clipped.
    finite: whether loss, grad_norm and the updated params are finite. The grad_norm of an update
      that dynamic loss scaling skipped does not count.
    norms: arrays [layer, time] by name. `log10_grad_norm` is the batch mean of log₁₀ ‖dL/dh_t‖ (the
      logarithm of the geometric mean), where L is each example's own training loss. Each further
      leaf of the carry has an array of its own, such as `log10_grad_norm_cell` for an LSTM's cell
      state. With `--clip_by=carry`, `clipped_share` is the share of examples whose dL/dh_t was
      clipped.
    measures: for each measure, its variables by name. They are NaN at steps that are not measured.
    held_out: scalars by name, NaN at steps that are not evaluated: `held_out_loss`, the mean loss
      on held-out data, and `held_out_accuracy` for tasks with classes. At a sequence length T other
      than the run's own, their names end in `_T`.
  """

  loss: Array
  grad_norm: Array
  clipped_norm: Array
  clipped: Array
  finite: Array
  norms: dict[str, Array]
  measures: dict[str, dict[str, Array]]
  held_out: dict[str, Array]


class Snapshot(NamedTuple):
  """The state of a run at the step where it diverged, in NumPy arrays.

  Attributes:
    params, opt_state: params and optimizer state before that step's update.
    batch: the step's batch.
  """

  params: Params
  opt_state: optax.OptState
  batch: Batch


@dataclasses.dataclass
class Result:
  """A run that has finished or diverged.

  Attributes:
    run: the run.
    records: records up to and including the run's last step (if it diverged, the diverged step),
      leaves [steps, ...]. `norms` and `measures` hold only the steps that `recorded_steps` returns;
      other leaves hold all steps.
    diverged_step: first step whose loss, gradient norm or updated params were not finite; None if
      the run finished.
    snapshot: the state at `diverged_step`; None if the run finished.
    seconds: wall-clock time since the run's round started, without compilation.
  """

  run: Run
  records: Record
  diverged_step: int | None
  snapshot: Snapshot | None
  seconds: float


class Partial(NamedTuple):
  """The progress of an unfinished round, in NumPy arrays; training resumes from it.

  Random numbers and batches depend only on a run's seed and the step, and each sequence starts from
  a carry of zeros, so nothing else needs to be saved.

  Attributes:
    step: the next step to train.
    params, opt_state: params and optimizer states after all earlier steps, leaves [runs, ...].
    records: records of all earlier steps, leaves [runs, steps, ...]; `norms` and `measures` hold
      only the steps that `recorded_steps` returns. If a run has diverged, its entries past the
      diverged step are meaningless.
    seconds: wall-clock time so far.
  """

  step: Number
  params: Params
  opt_state: optax.OptState
  records: Record
  seconds: Number


def recorded_steps(run: Run, settings: Settings) -> list[int]:
  """Returns the steps at which norms or measures are recorded, including the first and the last."""
  logged, measured = (
    range(0, run.steps + 1, every) for every in (settings.log_every, settings.measure_every)
  )
  return sorted({*logged, *measured, run.steps})


def nonfinite_text(found: NonFinite | None) -> str:
  """Returns the location of the first non-finite value as one line of text."""
  return describe_nonfinite(found) if found else "no non-finite value was found"


def nonfinite_from_json(data: Mapping[str, Any] | None) -> NonFinite | None:
  """Rebuilds a `NonFinite` from its JSON object; returns None if `data` is None or empty."""
  if not data:
    return None
  return NonFinite(**{name: data[name] for name in NonFinite._fields})._replace(
    entry=tuple(data["entry"])
  )
