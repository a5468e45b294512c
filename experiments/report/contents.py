"""The contents of a report as JSON data: settings, runs, curves, tables, provenance."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablation import factors, folders, tables
from experiments.ablation.effects import effects
from experiments.ablation.outcomes import largest_lag, outcomes
from experiments.ablation.study import Outcome
from experiments.report import curves, sources
from experiments.report.sources import Source
from experiments.runtime import exits, provenance
from experiments.sweep.records.record import nonfinite_from_json, nonfinite_text

_MOST_ITEMS = 40  # of a list of values
MAX_EFFECTS = 1000  # rows of the ablation tables of a sweep
_NOT_SHOWN = ("diverged", "diverged_step")  # outcomes that other columns say


def contents(found: Sequence[Source], interval: int | None = None) -> dict[str, Any]:
  """Returns the contents of a report of one or several sweeps.

  Args:
    found: the sweeps.
    interval: seconds after which the page reloads itself; None for a page that does not.
  """
  names = [source.name for source in found]
  return _printable(
    {
      "title": ", ".join(Path(name).absolute().name for name in names),
      "interval": interval,
      "folders": names,
      "counts": _counts(found),
      "asked": _asked(found),
      "remarks": [_remarks(source) for source in found],
      "commands": [_command(name) for name in names],
      "flags": [source.flags for source in found],
      "settings": [
        {"name": name, "label": name.replace("_", " "), "values": factor.values}
        | {"codes": _codes(factor.values, factor.column)}
        for name, factor in sources.settings(found).items()
      ],
      "runs": [str(run) for source in found for run in source.gradients["run"].values],
      "outcomes": _outcomes(found),
      "baseline": _baseline(found),
      "curves": curves.pack(found),
      "ablations": [_ablation(source) for source in found],
      "diverged": _diverged(found),
      "failed": _failed(found),
      "provenance": [_provenance(source) for source in found],
    }
  )


def _printable(data: Any) -> Any:
  """Returns JSON data in which control characters, and those that reorder text, are escaped."""
  if isinstance(data, str):
    return "\n".join(map(exits.printable, data.split("\n")))
  if isinstance(data, Mapping):
    return {key: _printable(value) for key, value in data.items()}
  if isinstance(data, list | tuple):
    # Most lists are long lists of numbers.
    return [item if isinstance(item, int | float) else _printable(item) for item in data]
  return data


def _command(folder: str) -> str:
  """Returns the command that repeats a sweep, or finishes it."""
  flagfile, output = (shlex.quote(f"{folder}{end}") for end in ("/sweep.flags", ""))
  return f"python -m experiments.sweep --flagfile={flagfile} --output_dir={output}"


def _counts(found: Sequence[Source]) -> dict[str, int]:
  """Returns the number of runs of each status; `unfinished` for those that have not ended."""
  counts = dict.fromkeys(("finished", "diverged", "failed", "unfinished"), 0)
  for source in found:
    for state in source.states.values():
      status = str(state.get("status"))
      counts[status if status in counts else "unfinished"] += 1
  return counts


def _asked(found: Sequence[Source]) -> list[dict[str, Any]]:
  """Returns each entry of the configurations, its text in each sweep, and whether they differ."""
  configurations = [source.about["configuration"] for source in found]
  rows = []
  for name in dict.fromkeys(name for own in configurations for name in own):
    texts = [_setting_text(name, own.get(name)) for own in configurations]
    several = any(isinstance(own.get(name), list) and len(own[name]) > 1 for own in configurations)
    row = {"name": name, "texts": texts, "axis": several, "differs": len(set(texts)) > 1}
    rows.append(row)
  return rows


def _setting_text(name: str, value: Any) -> str:
  """Returns an entry of a configuration as the sweep's flags give it."""
  items = value if isinstance(value, list) else [value]
  texts = [
    json.dumps(item) if isinstance(item, list | dict) else factors.value_text(name, item) or "–"
    for item in items[:_MOST_ITEMS]
  ]
  more = f", … ({len(items)} values)" * (len(items) > len(texts))
  return ", ".join(texts) + more or "–"


def _remarks(source: Source) -> list[str]:
  """Returns sentences on settings without effect, and on values that the sweep selected."""
  given = source.about.get("no_effect")
  remarks = (
    [f"{text}." for text in given if isinstance(text, str)] if isinstance(given, list) else []
  )
  selected = source.about.get("selected")
  if isinstance(selected, list):
    remarks += [f"Selected: {_entry_text(choice)}" for choice in selected]
  return remarks


def _codes(values: Sequence[str], column: Sequence[str | None]) -> list[int]:
  """Returns the index of each run's value; −1 if the setting has no effect on the run."""
  places = {value: i for i, value in enumerate(values)}
  return [-1 if value is None else places[value] for value in column]


def _outcomes(found: Sequence[Source]) -> list[dict[str, Any]]:
  """Returns the columns of numbers in the table of runs, over the runs of all sweeps.

  `bounds` lists the indices of the runs whose value is a lower bound.
  """
  columns: dict[str, dict[str, Any]] = {}
  done = 0
  for source in found:
    size = source.gradients.sizes["run"]
    step = source.metrics["diverged_step"].values.astype(float)
    measured = outcomes(source.gradients, source.metrics, largest_lag(source.gradients))
    measured = [outcome for outcome in measured if outcome.name not in _NOT_SHOWN]
    measured.append(Outcome("diverged_step", "diverged at step", "", 1, step, step))
    for name, label, unit, _, low, high in measured:
      column = columns.setdefault(
        name, {"name": name, "label": label, "unit": unit, "values": [None] * done, "bounds": []}
      )
      beyond = np.isfinite(low) & np.isposinf(high)
      known = (np.isfinite(low) & (low == high)) | beyond
      column["values"] += [
        _short(value) if shown else None for value, shown in zip(low, known, strict=True)
      ]
      column["bounds"] += (done + np.flatnonzero(beyond)).tolist()
    done += size
    for column in columns.values():
      column["values"] += [None] * (done - len(column["values"]))
  return [column for column in columns.values() if any(v is not None for v in column["values"])]


def _short(value: float) -> float:
  return float(f"{value:.4g}")


def _baseline(found: Sequence[Source]) -> float | None:
  """Returns the loss of a model that ignores its inputs; None if it differs among the runs."""
  values = {_short(float(value)) for s in found for value in s.metrics["baseline"].values}
  value = values.pop()
  return value if not values and np.isfinite(value) else None


def _ablation(source: Source) -> dict[str, Any]:
  """Returns the tables of effects of a sweep, as texts, and remarks on them."""
  configuration = source.about["configuration"]
  try:
    study = folders.study(source.gradients, source.metrics, source.states, [configuration])
    found = effects(study)
  except ValueError as error:  # two runs with equal settings
    return {"titles": [], "groups": [], "notes": [f"There are no effects: {error}"]}
  shown = found[:MAX_EFFECTS]
  notes = tables.notes(found, study) if found else []
  if len(found) > len(shown):
    notes.append(
      f"The first {len(shown)} of {len(found)} effects are shown; experiments.ablation writes all."
    )
  return {
    "titles": tables.TITLES,
    "groups": [
      {
        "title": title,
        "rows": [tables.row(effect) for effect in group],
        "significant": [tables.significant(effect) for effect in group],
      }
      for title, group in tables.grouped(shown)
    ],
    "notes": notes,
  }


def _diverged(found: Sequence[Source]) -> list[list[str | int]]:
  """Returns (folder, run, step, location of the first non-finite value) of the diverged runs."""
  return [
    [
      source.name,
      name,
      int(state["diverged_step"]),
      nonfinite_text(nonfinite_from_json(state.get("bad_place"))),
    ]
    for source in found
    for name, state in source.states.items()
    if state.get("status") == "diverged"
  ]


def _failed(found: Sequence[Source]) -> list[list[str]]:
  """Returns (folder, run, reason) of the failed runs."""
  return [
    [source.name, name, state["reason"]]
    for source in found
    for name, state in source.states.items()
    if state.get("status") == "failed"
  ]


def _provenance(source: Source) -> list[list[str]]:
  """Returns (name, text) pairs that say how the records came about, start by start."""
  rows = []
  for i, start in enumerate((source.about, *source.about.get("continued", []))):
    entries = {
      "resumed" if i else "started": start.get("started"),
      "commit": provenance.commit_text(start),
      **{name: start.get(name) for name in ("devices", "versions", "environment")},
    }
    rows += [[name, _entry_text(value)] for name, value in entries.items() if value]
  return rows


def _entry_text(value: Any) -> str:
  """Returns an entry of `sweep.json`, which may hold anything, as text."""
  if isinstance(value, dict):
    value = [f"{name} {own}" for name, own in value.items()]
  if isinstance(value, list):
    return ", ".join(map(str, value))
  return str(value)
