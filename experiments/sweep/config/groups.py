"""The groups of a sweep: runs that share one compiled program.

Runs that differ only in numbers that are arguments of the program, such as the seed or the learning
rate, form a group: see `Numbers` in `training/run_setup.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Iterable

from experiments.sweep.config.runs import Run

# The settings in which runs of a group may differ.
NUMBERS = (
  *("seed", "truncation", "learning_rate", "clip_norm"),
  *("recurrent_gain", "forget_bias"),
  *("warmup", "momentum", "weight_decay"),
  *("omega_penalty", "spectral_penalty", "flossing", "flossing_steps"),
)
# Those numbers whose value 0 leaves a computation out of the program: runs with 0 and runs with
# other values are in different groups.
SWITCHED = (
  *("warmup", "momentum", "weight_decay"),
  *("omega_penalty", "spectral_penalty", "flossing", "flossing_steps"),
)
_SHARED = tuple(field.name for field in dataclasses.fields(Run) if field.name not in NUMBERS)
# The settings that `Run.network` names.
_NAMED = ("cell", "options", "depth", "layer_norm", "residual", "dropout", "zoneout")

Group = tuple[Hashable, ...]  # the values of the settings that the runs of a group share


def group_of(run: Run) -> Group:
  """Returns the group of a run."""
  switches = tuple(getattr(run, name) != 0 for name in SWITCHED)
  return (*(getattr(run, name) for name in _SHARED), *switches)


def by_group(runs: Iterable[Run]) -> dict[Group, list[Run]]:
  """Returns {group: its runs}."""
  found: dict[Group, list[Run]] = {}
  for run in runs:
    found.setdefault(group_of(run), []).append(run)
  return found


def group_name(run: Run, varied: Collection[str] = ()) -> str:
  """Returns a name for the run's group, such as `gru reset=none, depth 2, clipped by carry`.

  Args:
    run: any run of the group.
    varied: settings that several groups of the sweep differ in; the name includes their values.
  """
  own = [name for name in _SHARED if name in varied and name not in (*_NAMED, "clip_by")]
  parts = [run.network, *(_text(name, getattr(run, name)) for name in own)]
  parts += [
    f"with {name.replace('_', ' ')}" for name in SWITCHED if name in varied and getattr(run, name)
  ]
  if run.clip_by != "global_norm":
    parts.append(f"clipped by {run.clip_by}")
  return ", ".join(parts)


def _text(name: str, value: object) -> str:
  if name in ("task", "optimizer", "dtype"):
    return str(value)
  if name == "loss_scale":
    return "no loss scale" if value is None else f"loss scale {value}"
  return f"{value} units" if name == "hidden_size" else f"{name.replace('_', ' ')} {value}"
