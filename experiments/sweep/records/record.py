"""What training hands to the records: those of a step, a run's result, a round's progress."""

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
  """The record of one training step, of the params before its update.

  Attributes:
    loss: mean training loss of the step's batch.
    grad_norm: global gradient norm before clipping.
    clipped_norm: global gradient norm after clipping.
    clipped: 1 if the gradient was clipped, else 0; with clip_by carry, the share of all dL/dh_t
      that were clipped. `clipped_share` in `norms` resolves it over time.
    finite: whether loss, grad_norm and the updated params are finite.
    norms: `log10_grad_norm`, and the same for other leaves of the carry, [layer, time]: log₁₀
      ‖dL/dh_t‖ of each example's own training loss, averaged over the batch (the logarithm of the
      geometric mean).
    measures: the variables of each measure of the sweep; NaN at steps that are not measured.
  """

  loss: Array
  grad_norm: Array
  clipped_norm: Array
  clipped: Array
  finite: Array
  norms: dict[str, Array]
  measures: dict[str, dict[str, Array]]


class Snapshot(NamedTuple):
  """The state of a run at the step where it diverged, in NumPy arrays.

  Attributes:
    params, opt_state: before the update of that step.
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
    records: with a leading axis of steps: loss, grad_norm and the like of every step up to the last
      one or the one that diverged; norms and measures of the recorded steps only.
    diverged_step: first step whose loss, gradient norm or updated params were not finite; None if
      the run finished.
    snapshot: the state at that step; None if the run finished.
    seconds: wall-clock time from the start of the run's round, without compilation.
  """

  run: Run
  records: Record
  diverged_step: int | None
  snapshot: Snapshot | None
  seconds: float


class Partial(NamedTuple):
  """The progress of an unfinished round, in NumPy arrays; training resumes from it.

  Randomness and data depend on a run's seed and on the step alone, and each sequence begins with a
  carry of zeros, so nothing else has to be kept.

  Attributes:
    step: the next step.
    params, opt_state: before that step, leaves [runs, ...].
    records: of the steps before, leaves [runs, steps, ...], norms and measures of the recorded
      steps only. After a run diverges its rows keep being filled; entries past its diverged step
      are garbage.
    seconds: wall-clock time so far.
  """

  step: Number
  params: Params
  opt_state: optax.OptState
  records: Record
  seconds: Number


def recorded_steps(settings: Settings) -> list[int]:
  """Returns the steps at which norms or measures are recorded, the first and the last included."""
  logged, measured = (
    range(0, settings.steps + 1, every) for every in (settings.log_every, settings.measure_every)
  )
  return sorted({*logged, *measured, settings.steps})


def nonfinite_text(found: NonFinite | None) -> str:
  """Returns the location of the first non-finite value as one line of text."""
  return describe_nonfinite(found) if found else "no non-finite value was found"


def nonfinite_from_json(data: Mapping[str, Any] | None) -> NonFinite | None:
  """Returns the location of the first non-finite value from its JSON object, if there is one."""
  if not data:
    return None
  return NonFinite(**{name: data[name] for name in NonFinite._fields})._replace(
    entry=tuple(data["entry"])
  )
