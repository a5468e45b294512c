"""A figure's folder (table.csv, checks.json, picture.png), and the report on all figures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome

_NAMES = ("table.csv", "checks.json", "picture.png", "picture.svg")


class Result(NamedTuple):
  """The result of running a figure.

  Attributes:
    outcome: table, checks and picture; None if it raised an error.
    error: the error in one line; None if there was none.
    seconds: duration, compilation included.
  """

  outcome: Outcome | None
  error: str | None
  seconds: float

  @property
  def reproduced(self) -> bool:
    """Whether there are checks, and all of them are met."""
    return self.outcome is not None and _all_met(self.outcome.checks)


def _all_met(checks: Sequence[Check]) -> bool:
  return bool(checks) and all(check.met for check in checks)


def picture(title: str, outcome: Outcome) -> matplotlib.figure.Figure:
  """Draws a figure's picture, with its title."""
  figure = matplotlib.figure.Figure(figsize=(style.WIDTH, 4.2), layout="constrained")
  outcome.draw(figure)
  for axis in figure.axes:
    axis.tick_params(labelsize=style.SMALL, which="both")
    for label in (axis.xaxis.label, axis.yaxis.label):
      label.set_fontsize(style.MEDIUM)
    if not axis.images and not axis.collections:
      axis.spines[["top", "right"]].set_visible(False)
  style.annotate(figure, [], title)
  return figure


def save(
  folder: Path,
  name: str,
  figure: Figure,
  result: Result,
  drawn: matplotlib.figure.Figure | None,
  about: Mapping[str, object],
) -> None:
  """Writes a figure's result and replaces the files of an earlier run.

  Args:
    folder: folder of all figures; this figure's is its subfolder `name`.
    name: the figure's name.
    figure: the figure.
    result: its result.
    drawn: its picture; None if there is none.
    about: versions, machine and time, for checks.json.
  """
  folder = folder / name
  folder.mkdir(parents=True, exist_ok=True)
  for file in _NAMES:
    (folder / file).unlink(missing_ok=True)
  outcome = result.outcome
  if outcome is not None:
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file_handle:
      writer = csv.DictWriter(file_handle, columns(outcome.table), restval="")
      writer.writeheader()
      writer.writerows(outcome.table)
  if drawn is not None:
    style.save(drawn, folder, "picture")
  checks = [] if outcome is None else [check._asdict() for check in outcome.checks]
  record = {
    "figure": name,
    "title": figure.title,
    "setting": figure.setting,
    "source": figure.source,
    "seeds": list(figure.seeds),
    "reproduced": result.reproduced,
    "error": result.error,
    "seconds": round(result.seconds, 1),
    "checks": [{**check, "measured": _plain(check["measured"])} for check in checks],
    "notes": [] if outcome is None else list(outcome.notes),
    **about,
  }
  text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
  (folder / "checks.json").write_text(text, encoding="utf-8")


def columns(table: Sequence[Mapping[str, object]]) -> list[str]:
  """Returns the names of a table's columns, in the order in which they first appear."""
  return list(dict.fromkeys(name for row in table for name in row))


def shown(value: object) -> str:
  """Returns the text of a table's cell."""
  if isinstance(value, float):
    return f"{value:.4g}"
  return "" if value is None else str(value)


def status(reproduced: bool) -> str:
  """Returns `reproduced` or `not reproduced`."""
  return "reproduced" if reproduced else "not reproduced"


def _plain(value: float) -> float | str:
  """Returns infinities and NaN as text, since JSON has none."""
  return value if math.isfinite(value) else str(value)


def report(folder: Path, order: Sequence[str]) -> str:
  """Returns the report, in Markdown, on the figures of `order` whose records are in `folder`.

  Raises:
    OSError, ValueError: a record cannot be read.
  """
  lines = [
    "# Results",
    "",
    "Written by `python -m experiments.reproduce --figure=all --report=experiments/RESULTS.md`.",
    "A figure is reproduced if all of its checks are met. Numbers are given as measured.",
    "",
    "| figure | | result | seconds |",
    "|---|---|---|---|",
  ]
  sections: list[str] = []
  for name in order:
    path = folder / name / "checks.json"
    if not path.exists():
      lines.append(f"| {name} | | not run | |")
      continue
    try:
      record = json.loads(path.read_text(encoding="utf-8"))
      cells = name, _cell(record["title"]), status(record["reproduced"])
      lines.append(f"| {' | '.join(cells)} | {record['seconds']:.0f} |")
      sections += ["", *_section(name, record, folder / name / "table.csv")]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      reason = f"{type(error).__name__}: {error}"
      raise ValueError(f"{path} must hold the record of a figure, got {reason}.") from None
  return "\n".join(lines + sections) + "\n"


def _section(name: str, record: Mapping[str, Any], table: Path) -> list[str]:
  """Returns the lines of one figure's section of the report."""
  seeds = ", ".join(map(str, record["seeds"])) or "none"
  versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
  git = record["git"]
  commit = (
    "no repository"
    if git is None
    else git["commit"][:12] + " with uncommitted changes" * git["dirty"]
  )
  lines = [
    f"## {name}. {record['title']}: {status(record['reproduced'])}",
    "",
    f"{record['setting']}",
    "",
    f"- Source: {record['source']}",
    f"- Seeds: {seeds}",
    f"- {record['seconds']:.1f} s on {record['device']} ({record['processor']}), "
    f"{record['cores']} cores; {record['started']}",
    f"- {versions}; commit {commit}",
  ]
  if record["error"] is not None:
    lines += ["", f"It failed: {record['error']}"]
  if record["checks"]:
    lines += ["", "| check | measured | expected | |", "|---|---|---|---|"]
    for check in record["checks"]:
      cells = (check["name"], shown(float(check["measured"])), check["expected"])
      met = "met" if check["met"] else "**not met**"
      lines.append(f"| {' | '.join(map(_cell, cells))} | {met} |")
  if table.exists():
    with table.open(newline="", encoding="utf-8") as file:
      header, *rows = csv.reader(file)
    lines += ["", f"| {' | '.join(map(_cell, header))} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(_cell(_rounded(text)) for text in row)} |" for row in rows]
  if record["notes"]:
    lines += ["", *(f"- {note}" for note in record["notes"])]
  return lines


def _rounded(text: str) -> str:
  """Returns a CSV file's text, rounded if it is a number but not an integer."""
  try:
    return text if text.lstrip("-").isdecimal() else shown(float(text))
  except ValueError:
    return text


def _cell(text: str) -> str:
  """Returns text escaped for a cell of a Markdown table."""
  return text.replace("|", "\\|")
