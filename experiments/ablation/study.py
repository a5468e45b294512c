"""The runs that are compared: their settings as text, and an interval for each run's outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Factor(NamedTuple):
  """A setting that varies.

  Attributes:
    values: its values as text, the base first.
    column: the value of each run; None if the setting has no effect on the run.
  """

  values: Sequence[str]
  column: Sequence[str | None]


class Outcome(NamedTuple):
  """What the runs are compared by.

  A run's value lies between two bounds. They are equal if the value is known. If it exceeds what
  was measured, such as a memory longer than the sequence, one bound is infinite. A value that is
  worse than any number, such as the loss of a run that diverged, has two equal infinite bounds.

  Attributes:
    name: name of the outcome, such as `held_out_loss`.
    label: name for tables and figures, such as `held-out loss`.
    unit: unit of the values; empty if the runs have several.
    better: 1 if larger values are better, −1 if smaller ones are.
    low, high: bounds of each run's value.
  """

  name: str
  label: str
  unit: str
  better: int
  low: Float[np.ndarray, " run"]
  high: Float[np.ndarray, " run"]

  @property
  def known(self) -> Bool[np.ndarray, " run"]:
    """Returns whether each run's value is known and finite."""
    return np.isfinite(self.low) & (self.low == self.high)


class Study(NamedTuple):
  """The runs of one or several sweeps.

  Attributes:
    runs: id of each run.
    seeds: seed of each run.
    tasks: task of each run. Runs of different tasks are not compared.
    diverged: whether each run diverged.
    factors: the settings that vary, by name.
    outcomes: what the runs are compared by.
    remarks: sentences on what is missing from the records.
  """

  runs: Sequence[str]
  seeds: Sequence[int]
  tasks: Sequence[str]
  diverged: Bool[np.ndarray, " run"]
  factors: Mapping[str, Factor]
  outcomes: Sequence[Outcome]
  remarks: Sequence[str] = ()
