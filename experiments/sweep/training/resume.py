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
from experiments.sweep.records import origins, round_checkpoints
from experiments.sweep.records.record import Partial
from experiments.sweep.training.program import Program
from experiments.sweep.training.rounds import partial_like


class Round(NamedTuple):
  """A round: runs of one group that are trained at the same time.

  Attributes:
    runs: the runs.
    resumed_from: the runs' progress so far; None if they start at step 0.
    code: key of the code that trained them from step 0; None if it is unknown.
  """

  runs: Sequence[Run]
  resumed_from: Partial | None
  code: str | None


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
  saved, codes = _saved(sweep, program, runs)
  starts = {
    run: (int(saved[run].step), codes[run]) if run in saved else (0, origins.key()) for run in runs
  }
  found = []
  for step, code in sorted(set(starts.values()), key=lambda start: (-start[0], str(start[1]))):
    alike = [run for run in runs if starts[run] == (step, code)]
    for first in range(0, len(alike), program.runs_per_round):
      together = alike[first : first + program.runs_per_round]
      resumed_from = _stack([saved[run] for run in together]) if step else None
      found.append(Round(together, resumed_from, code))
  return found


def _saved(
  sweep: Sweep, program: Program, runs: Sequence[Run]
) -> tuple[dict[Run, Partial], dict[Run, str | None]]:
  """Returns the newest checkpointed progress of each run, and the code that began it.

  The progress is a `Partial` without an axis of runs. Runs without a checkpoint are left out.
  Checkpoints of rounds that other code began are deleted, except with `--keep_stale`.
  """
  found: dict[Run, Partial] = {}
  codes: dict[Run, str | None] = {}
  wanted = set(runs)
  for path, ids in round_checkpoints.every(sweep.folder):
    if not any(sweep.ids.get(name) in wanted for name in ids):
      continue
    code = round_checkpoints.code_of(path)
    known = [name for name in ids if name in sweep.ids]
    if origins.stale(sweep, {name: {"code": code} for name in known}):
      round_checkpoints.remove(path)
      continue
    like = functools.partial(partial_like, program, runs[0], sweep.settings, len(ids))
    saved = round_checkpoints.newest(path, sweep, ids, like)
    if saved is None:
      continue
    for i, name in enumerate(ids):
      run = sweep.ids.get(name)  # None if the sweep no longer has this run
      if run in wanted and (run not in found or found[run].step < saved.step):
        found[run] = _select(saved, i)
        codes[run] = code if isinstance(code, str) else None
  return found, codes


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
