"""Divides the runs of a group into rounds, and reads the checkpoints from which rounds resume.

The runs of a group share a compiled program. The runs of a round are trained at the same time.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.sweep.config.runs import Run
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import round_checkpoints
from experiments.sweep.records.record import Partial
from experiments.sweep.training.program import Program
from experiments.sweep.training.rounds import partial_like


class Round(NamedTuple):
  """A round: runs of one group that are trained at the same time.

  Attributes:
    runs: the runs.
    resumed_from: the runs' progress so far; None if they start at step 0.
  """

  runs: Sequence[Run]
  resumed_from: Partial | None


def rounds(sweep: Sweep, program: Program, runs: Sequence[Run]) -> list[Round]:
  """Divides runs of a group into rounds; runs share a round only if they resume from the same step.

  Args:
    sweep: the sweep.
    program: the group's program.
    runs: the runs to train.
  Returns:
    The rounds. Those that resume from the latest step come first.
  Raises:
    ValueError: if a checkpoint was saved with a different configuration.
  """
  saved = _saved(sweep, program, runs)
  steps = {run: int(saved[run].step) if run in saved else 0 for run in runs}
  found = []
  for step in sorted(set(steps.values()), reverse=True):
    alike = [run for run in runs if steps[run] == step]
    for first in range(0, len(alike), program.runs_per_round):
      together = alike[first : first + program.runs_per_round]
      resumed_from = _stack([saved[run] for run in together]) if step else None
      found.append(Round(together, resumed_from))
  return found


def _saved(sweep: Sweep, program: Program, runs: Sequence[Run]) -> dict[Run, Partial]:
  """Returns the newest checkpointed progress of each run, as a `Partial` without an axis of runs.

  Runs without a checkpoint are left out.
  """
  found: dict[Run, Partial] = {}
  wanted = set(runs)
  for path, ids in round_checkpoints.every(sweep.folder):
    if not any(sweep.ids.get(name) in wanted for name in ids):
      continue
    like = functools.partial(partial_like, program, sweep.settings, len(ids))
    saved = round_checkpoints.newest(path, sweep, ids, like)
    if saved is None:
      continue
    for i, name in enumerate(ids):
      run = sweep.ids[name]
      if run in wanted and (run not in found or found[run].step < saved.step):
        found[run] = _select(saved, i)
  return found


def _select(partial: Partial, i: int) -> Partial:
  """Returns the progress of a round's i-th run: entry i of each leaf."""
  rows = partial.params, partial.opt_state, partial.records
  params, opt_state, records = jax.tree.map(operator.itemgetter(i), rows)
  return Partial(partial.step, params, opt_state, records, partial.seconds)


def _stack(parts: Sequence[Partial]) -> Partial:
  """Stacks the progress of runs that are at the same step into the progress of a round."""
  rows = [(part.params, part.opt_state, part.records) for part in parts]
  params, opt_state, records = jax.tree.map(lambda *a: np.stack(a), *rows)
  seconds = max(part.seconds for part in parts)
  return Partial(parts[0].step, params, opt_state, records, seconds)
