"""The files that are written for each figure, and the report on all figures.

A figure's folder holds its table (table.csv), its record (checks.json: checks, notes, provenance)
and its picture as PNG and SVG. The report is Markdown made from these records.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome
from experiments.runtime import files

_NAMES = ("table.csv", "checks.json", "picture.png", "picture.svg")


class Result(NamedTuple):
  """The result of running a figure.

  Attributes:
    outcome: table, checks and picture; None if an error was raised.
    error: the error's type and message in one line; None if there was no error.
    seconds: duration, compilation included.
  """

  outcome: Outcome | None
  error: str | None
  seconds: float

  @property
  def reproduced(self) -> bool:
    """Returns True if the figure has at least one check and all of its checks are met."""
    return self.outcome is not None and _all_met(self.outcome.checks)


def _all_met(checks: Sequence[Check]) -> bool:
  return bool(checks) and all(check.met for check in checks)


def picture(title: str, outcome: Outcome) -> matplotlib.figure.Figure:
  """Returns the picture of a figure, with the title above it."""
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


def check_folder(folder: Path, name: str) -> None:
  """Checks that nothing but regular files is in place of a figure's files.

  Args:
    folder: folder of all figures.
    name: the figure's name.
  Raises:
    ValueError: if a link, folder, device or pipe is in place of a file.
  """
  files.check_no_links(folder / name)
  for file in _NAMES:
    files.check_replaceable(folder / name / file)


def save(
  folder: Path,
  name: str,
  figure: Figure,
  result: Result,
  drawn: matplotlib.figure.Figure | None,
  about: Mapping[str, object],
) -> None:
  """Writes the files of a figure into its folder, and removes those of an earlier run.

  Args:
    folder: folder of all figures; this figure's folder is its subfolder `name`.
    name: the figure's name.
    figure: the figure.
    result: the result of running the figure.
    drawn: the picture; None if an error prevented it.
    about: provenance (start time, versions, machine, commit), to be added to checks.json.
  """
  folder = folder / name
  folder.mkdir(parents=True, exist_ok=True)
  for file in _NAMES:
    (folder / file).unlink(missing_ok=True)
  outcome = result.outcome
  if outcome is not None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns(outcome.table), restval="")
    writer.writeheader()
    writer.writerows(outcome.table)
    files.write_text(folder / "table.csv", table.getvalue())
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
  files.write_text(folder / "checks.json", text)


def columns(table: Sequence[Mapping[str, object]]) -> list[str]:
  """Returns the names of a table's columns, in the order in which they first appear."""
  return list(dict.fromkeys(name for row in table for name in row))


def shown(value: object) -> str:
  """Returns a value of a table as text: floats with 4 significant digits, None as ''."""
  if isinstance(value, float):
    return f"{value:.4g}"
  return "" if value is None else str(value)


def status(reproduced: bool) -> str:
  """Returns the status of a figure as text: `reproduced` or `not reproduced`."""
  return "reproduced" if reproduced else "not reproduced"


def _plain(value: float) -> float | str:
  """Returns a finite value as it is, and infinities and NaN as text, since JSON lacks them."""
  return value if math.isfinite(value) else str(value)


def report(folder: Path, order: Sequence[str]) -> str:
  """Returns the report on all figures in Markdown.

  Args:
    folder: folder of all figures; a figure without a record there is reported as not run.
    order: names of the figures, in the order of the report.
  Raises:
    OSError, ValueError: if a record cannot be read.
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
      record = files.read_json(path)
      cells = name, _cell(record["title"]), status(record["reproduced"])
      lines.append(f"| {' | '.join(cells)} | {record['seconds']:.0f} |")
      sections += ["", *_section(name, record, folder / name / "table.csv")]
    except Exception as error:  # damaged files raise exceptions of many types
      reason = f"{type(error).__name__}: {error}"
      raise ValueError(f"{path} must hold the record of a figure, got {reason}.") from None
  return "\n".join(lines + sections) + "\n"


def _section(name: str, record: Mapping[str, Any], table: Path) -> list[str]:
  """Returns a figure's section of the report, as lines, from its record and its table's file."""
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
    text = files.read_bytes(table, files.LARGEST_JSON).decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    lines += ["", f"| {' | '.join(map(_cell, header))} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(_cell(_rounded(text)) for text in row)} |" for row in rows]
  if record["notes"]:
    lines += ["", *(f"- {note}" for note in record["notes"])]
  return lines


def _rounded(text: str) -> str:
  """Returns an entry of a CSV file, with 4 significant digits if it is a non-integer number."""
  try:
    return text if text.lstrip("-").isdecimal() else shown(float(text))
  except ValueError:
    return text


def _cell(text: str) -> str:
  """Returns text with its pipes escaped, for a cell of a Markdown table."""
  return text.replace("|", "\\|")
