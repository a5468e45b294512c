"""Chooses the best value of a setting for every network, on held-out data.

A sweep with `--select=learning_rate` has two stages. The first trains all values of this axis with
the seeds of `--select_seed`, in the subfolder `selection` of the output folder. The second trains,
with the seeds of `--seed`, only the value with the smallest mean held-out loss. Because the seeds
differ, the noise that made a value the best one does not return in its results.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.networks.cell_options import value_text
from experiments.runtime import exits
from experiments.sweep.config.groups import NUMBERS, group_name
from experiments.sweep.config.runs import Run
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import gathered


class Choice(NamedTuple):
  """The value that was chosen for the runs that share all other settings.

  Attributes:
    run: the run of the first seed with the chosen value.
    value: the chosen value.
    losses: {value: its mean held-out loss over seeds}, inf if a run diverged or failed.
  """

  run: Run
  value: Any
  losses: Mapping[Any, float]

  @property
  def is_at_edge(self) -> bool:
    """Returns whether the chosen value is the smallest or the largest of several numbers."""
    values = [math.inf if value is None else value for value in self.losses]
    if len(values) < 2 or not all(isinstance(value, int | float) for value in values):
      return False
    return (math.inf if self.value is None else self.value) in (min(values), max(values))


def _others(run: Run, name: str) -> tuple[Hashable, ...]:
  """Returns the values of all settings of a run except its seed and the setting `name`."""
  fields = (field.name for field in dataclasses.fields(Run))
  return tuple(getattr(run, field) for field in fields if field not in ("seed", name))


def choose(sweep: Sweep, name: str) -> list[Choice]:
  """Returns the value of the axis `name` with the smallest held-out loss, for all other settings.

  Args:
    sweep: the sweep of the first stage, whose runs have all ended.
    name: the axis.
  """
  _, metrics, _ = gathered.read(sweep.folder)
  last = metrics["held_out_loss"].sel(update=metrics["steps"])
  loss = dict(zip(metrics["run"].values.tolist(), last.values.tolist(), strict=True))
  found: dict[tuple[Hashable, ...], dict[Any, list[float]]] = {}
  first: dict[tuple[Hashable, ...], Run] = {}
  for run_name, run in sweep.ids.items():
    others, value = _others(run, name), getattr(run, name)
    number = loss.get(run_name, math.nan)  # NaN if the run diverged; failed runs are missing
    number = math.inf if math.isnan(number) else number
    found.setdefault(others, {}).setdefault(value, []).append(number)
    first.setdefault((*others, value), run)
  choices = []
  for others, losses in found.items():
    means = {value: float(np.mean(values)) for value, values in losses.items()}
    best = min(means, key=lambda value: means[value])
    choices.append(Choice(first[*others, best], best, means))
  return choices


def select(sweep: Sweep, name: str, choices: Sequence[Choice]) -> Sweep:
  """Returns the sweep with only those runs that have the chosen values.

  Args:
    sweep: a sweep with all values of the axis `name`.
    name: the axis.
    choices: the chosen values; settings without a choice keep all their runs.
  """
  chosen = {_others(choice.run, name): choice.value for choice in choices}
  kept = {
    run_name: run
    for run_name, run in sweep.ids.items()
    if getattr(run, name) == chosen.get(_others(run, name), getattr(run, name))
  }
  selected = [
    {
      "setting": _setting(choice.run, name, sweep.varied),
      name: choice.value,
      "held_out_loss": {_text(value): loss for value, loss in choice.losses.items()},
    }
    for choice in choices
  ]
  return dataclasses.replace(sweep, ids=kept, selected=selected)


def _setting(run: Run, name: str, varied: Collection[str]) -> str:
  """Returns the settings of a run other than its seed and the setting `name`, as text."""
  numbers = [field for field in NUMBERS if field in varied and field not in ("seed", name)]
  texts = (f"{field.replace('_', ' ')} {_text(getattr(run, field))}" for field in numbers)
  return ", ".join([group_name(run, {*varied} - {name}), *texts])


def _text(value: object) -> str:
  return f"{value:g}" if isinstance(value, float) else value_text(value)


def report(choices: Sequence[Choice], sweep: Sweep, name: str, failed: bool) -> None:
  """Prints the chosen values, and warns about those at the edge of their axis.

  Args:
    choices: the chosen values.
    sweep: the sweep of the first stage.
    name: the axis.
    failed: whether a run of the first stage failed.
  """
  title = f"Best {name} by held-out loss, the mean over seeds {_seeds(sweep)}"
  table = Table(title=title, title_justify="left", box=None)
  for column in ("setting", name, "held-out loss", "next best"):
    table.add_column(column, justify="left" if column == "setting" else "right")
  for choice in choices:
    best, *others = sorted(choice.losses.values())
    table.add_row(
      exits.printable(_setting(choice.run, name, sweep.varied)),
      _text(choice.value),
      f"{best:.4g}",
      f"{others[0]:.4g}" if others else "-",
    )
  Console().print(table)
  edge = [choice for choice in choices if choice.is_at_edge]
  if edge:
    values = sorted({_text(choice.value) for choice in edge})
    exits.warn(
      f"the best {name} is at the edge of its values for {len(edge)} of {len(choices)} settings "
      f"({', '.join(values)}); a value beyond it may be better still. Add values to --{name}."
    )
  if failed:
    exits.warn(f"failed runs in {sweep.folder} count as the worst.")
  lost = sum(math.isinf(choice.losses[choice.value]) for choice in choices)
  if lost:
    exits.warn(
      f"every {name} diverged or failed with some seed for {lost} of {len(choices)} settings; the "
      "first one is used."
    )


def _seeds(sweep: Sweep) -> str:
  return ", ".join(map(str, sweep.select_seed))
