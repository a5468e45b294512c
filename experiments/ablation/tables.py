"""The table of effects: on the screen, as CSV, Markdown and LaTeX.

Names and values come from records, which may hold any text; each format escapes them.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.ablation import inference
from experiments.ablation.effects import Effect
from experiments.ablation.study import Study
from experiments.cli import tables
from experiments.runtime import exits

TITLES = (
  *("setting", "base → value", "seeds × settings", "at base", "effect", "95 % interval"),
  *("d_z", "P(better)", "p", "p (Holm)", "unknown"),
)
_NAMES = 3  # number of columns that are not aligned right
_IN_WIDE = ("seeds × settings", "at base", "d_z", "p")  # columns for wide terminals
_WIDE = 120  # characters
_ABSENT = "–"
LEVEL = 0.05  # of the tests


def significant(effect: Effect) -> bool:
  """Returns whether an effect's p-value after Holm's correction is below 0.05."""
  return effect.p_holm < LEVEL  # False for NaN


def heading(effect: Effect, several_tasks: bool) -> str:
  """Returns the outcome as text, such as `held-out loss, nats per step (lower is better)`."""
  outcome = effect.outcome
  task = f"{effect.task}: " * several_tasks
  unit = f", {outcome.unit}" * bool(outcome.unit)
  direction = "higher" if outcome.better > 0 else "lower"
  return exits.printable(f"{task}{outcome.label}{unit} ({direction} is better)")


def setting(effect: Effect) -> str:
  """Returns the name of the setting, or of both settings, such as `cell × depth`."""
  return exits.printable(" × ".join(effect.factors))


def change(effect: Effect) -> str:
  """Returns base and value as text, such as `elman → lstm`, or `(elman → lstm) × (1 → 2)`."""
  pairs = zip(effect.bases, effect.values, strict=True)
  texts = [f"{base} → {value}" for base, value in pairs]
  return exits.printable(texts[0] if len(texts) == 1 else " × ".join(f"({t})" for t in texts))


def grouped(found: Sequence[Effect]) -> Iterator[tuple[str, list[Effect]]]:
  """Yields the heading and the effects of each outcome: all effects, then all interactions."""
  several = len({effect.task for effect in found}) > 1
  for size in (1, 2):
    part = [effect for effect in found if len(effect.factors) == size]
    groups: dict[str, list[Effect]] = {}
    for effect in part:
      groups.setdefault(heading(effect, several), []).append(effect)
    for title, group in groups.items():
      yield ("Interactions: " if size == 2 else "") + title, group


def row(effect: Effect) -> list[str]:
  """Returns the texts of an effect, one for each of `TITLES`."""
  median = " (median)" if effect.statistic == "median" else ""
  signs = " (signs)" if effect.test == "signs" else ""
  bounds = _number(effect.low, "+.3g"), _number(effect.high, "+.3g")
  return [
    setting(effect),
    change(effect),
    f"{effect.seeds} × {_share(effect.used, effect.settings)}",
    _number(effect.at_base, ".4g"),
    _number(effect.effect, "+.3g", median),
    f"{bounds[0]} to {bounds[1]}" if effect.method else _ABSENT,
    _number(effect.d_z, "+.2f"),
    _number(effect.p_better, ".2f"),
    _p(effect.p, signs),
    _p(effect.p_holm),
    unknown(effect),
  ]


def unknown(effect: Effect) -> str:
  """Returns which runs have no known outcome, such as `2 diverged, 1 beyond range, of 10`."""
  counts = {"diverged": effect.diverged, "beyond range": effect.censored}
  texts = [f"{count} {name}" for name, count in counts.items() if count]
  return f"{', '.join(texts)}, of {effect.runs}" if texts else ""


def _share(used: int, count: int) -> str:
  return str(count) if used == count else f"{used} of {count}"


def _number(value: float, form: str, suffix: str = "") -> str:
  return _ABSENT if math.isnan(value) else f"{value:{form}}{suffix}"


def _p(value: float, suffix: str = "") -> str:
  if math.isnan(value):
    return _ABSENT
  return f"< 0.001{suffix}" if value < 0.001 else f"{value:.3f}{suffix}"


def notes(found: Sequence[Effect], study: Study) -> list[str]:
  """Returns sentences on what the table can and cannot show.

  Args:
    found: the effects.
    study: the runs.
  """
  lines = [*study.remarks, *_unpaired(found, study), *_power(found)]
  if any(effect.used < effect.settings for effect in found):
    lines.append(
      "The column unknown counts the runs whose outcome is not a known number: they diverged, or "
      "the outcome is beyond the measured range. Effect and interval use only settings in which "
      "every outcome is known. P(better) and p use all pairs: the loss of a run that diverged is "
      "worse than any other, and a pair whose order is unknown counts as half."
    )
  if any(effect.left_out for effect in found):
    lines.append(
      "Some combinations of the other settings are left out of an effect, because they lack a seed "
      "that others have; left_out in the CSV counts them."
    )
  rates = [effect.outcome for effect in found if effect.outcome.name == "decay_rate"]
  if rates and rates[0].low[rates[0].known].max(initial=0) > 0:
    lines.append("Where the decay rate is above 0, the gradient grows, and higher is not better.")
  return lines


def _unpaired(found: Sequence[Effect], study: Study) -> Iterator[str]:
  """Yields sentences on the values without an effect, because no runs differ in them alone."""
  for name, factor in study.factors.items():
    effects = [effect for effect in found if effect.factors == (name,)]
    shown = {value for effect in effects for value in (*effect.bases, *effect.values)}
    absent = [value for value in factor.values if value not in shown]
    if absent:
      yield (
        f"No runs of one seed differ in {name} alone for {', '.join(absent)}: the table has no "
        "rows for these values."
      )


def _power(found: Sequence[Effect]) -> Iterator[str]:
  """Yields sentences on the tests that cannot reach 0.05, because there are too few seeds."""
  seeds = {effect.seeds for effect in found}
  if 1 in seeds:
    yield "With one seed, there is neither an interval nor a test."
  for n in sorted(seeds - {1}):
    smallest = inference.smallest_p(n)
    if smallest > LEVEL:
      yield (
        f"With {n} seeds, the smallest possible p is {smallest:.2g}, so no test can reach "
        f"{LEVEL}; at least 6 seeds are needed."
      )
  for kind, size in (("effects", 1), ("interactions", 2)):
    part = [e for e in found if len(e.factors) == size and not math.isnan(e.p)]
    if part and len(part) * inference.smallest_p(min(effect.seeds for effect in part)) > LEVEL:
      needed = math.ceil(math.log2(2 * len(part) / LEVEL))
      yield (
        f"With Holm's correction over {len(part)} {kind}, at least {needed} seeds are needed for "
        f"any p to reach {LEVEL}."
      )


def show(found: Sequence[Effect], lines: Sequence[str]) -> None:
  """Prints the table and the notes: in Markdown, or in columns that fit the terminal."""
  console = Console()
  for title, group in grouped(found):
    if console.is_terminal:
      console.print(Text(title, "bold"))
      console.print(_rich(group, narrow=console.width < _WIDE), "")
    else:
      print(f"{title}:\n\n{tables.markdown(TITLES, map(row, group), _NAMES)}")
  for line in lines:
    print(exits.printable(line))


def _rich(group: Sequence[Effect], narrow: bool) -> Table:
  """Returns the effects on one outcome for a terminal, if it is narrow with the main columns."""
  rows = [row(effect) for effect in group]
  if narrow:
    counts = [effect.diverged + effect.censored for effect in group]
    for texts, count, effect in zip(rows, counts, group, strict=True):
      texts[-1] = f"{count} of {effect.runs}" if count else ""
  kept = [i for i in range(len(TITLES)) if any(texts[i] for texts in rows)]
  if narrow:
    kept = [i for i in kept if TITLES[i] not in _IN_WIDE]
  table = Table(box=None, padding=(0, 1 if narrow else 2, 0, 0), header_style="dim")
  for i in kept:
    numbers = _NAMES <= i < len(TITLES) - 1
    table.add_column(
      TITLES[i], justify="right" if numbers else "left", overflow="fold", no_wrap=numbers
    )
  for texts in rows:
    table.add_row(*(Text(texts[i]) for i in kept))
  return table


def markdown(found: Sequence[Effect], lines: Sequence[str]) -> str:
  """Returns the table and the notes in Markdown."""
  parts = [
    f"### {_markdown(title)}\n\n"
    + tables.markdown(TITLES, [list(map(_markdown, row(effect))) for effect in group], _NAMES)
    for title, group in grouped(found)
  ]
  parts.append("".join(f"- {_markdown(exits.printable(line))}\n" for line in lines))
  return "\n".join(parts)


def _markdown(text: str) -> str:
  """Escapes what Markdown, or HTML within it, would interpret."""
  text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
  return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", text)


_LATEX = {
  **{c: f"\\{c}" for c in "&%$#_{}"},
  **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
  **{"→": r"$\to$", "×": r"$\times$", "–": "--", "<": "$<$", ">": "$>$", "|": r"\textbar{}"},
  **{'"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}"},
}


def _latex(text: str) -> str:
  """Escapes what LaTeX would interpret; numbers get a minus sign instead of a hyphen."""
  escaped = "".join(_LATEX.get(c, c) for c in text)
  number = r"([+-]?)(\d+(?:\.\d+)?)(?:e([+-])0*(\d+))?"
  if re.fullmatch(f"{number}( to {number})?( .*)?", text):
    escaped = re.sub(f"(?<![\\w.]){number}", _latex_number, escaped)
  return escaped


def _latex_number(match: re.Match[str]) -> str:
  sign, digits, exponent_sign, exponent = match.groups()
  power = f"\\times10^{{{exponent_sign.replace('+', '')}{exponent}}}" if exponent else ""
  return f"${sign}{digits}{power}$" if sign or power else digits


def latex(found: Sequence[Effect], lines: Sequence[str]) -> str:
  """Returns the table for LaTeX, with the notes as comments; it needs the package booktabs."""
  titles = {
    0: "setting",
    1: r"base $\to$ value",
    4: "effect",
    5: r"95\,\% interval",
    6: "$d_z$",
    7: r"$P(\text{better})$",
    9: r"$p_\text{Holm}$",
  }
  if any(map(unknown, found)):
    titles[10] = "unknown"
  body = []
  for title, group in grouped(found):
    body.append(rf"\midrule \multicolumn{{{len(titles)}}}{{l}}{{{_latex(title)}}} \\")
    for effect in group:
      texts = row(effect)
      body.append(" & ".join(_latex(texts[i]) for i in titles) + r" \\")
  return "\n".join(
    [
      r"% \usepackage{amsmath,booktabs,textcomp}, and \usepackage[T1]{fontenc}",
      *(f"% {exits.printable(line)}" for line in lines),
      rf"\begin{{tabular}}{{ll{'r' * 5}{'l' * (10 in titles)}}}",
      r"\toprule",
      " & ".join(titles.values()) + r" \\",
      *body,
      r"\bottomrule",
      r"\end{tabular}",
      "",
    ]
  )


_FIELDS: dict[str, Callable[[Effect], object]] = {
  "task": lambda e: e.task,
  "outcome": lambda e: e.outcome.name,
  "unit": lambda e: e.outcome.unit,
  "better": lambda e: "higher" if e.outcome.better > 0 else "lower",
  "setting": lambda e: " x ".join(e.factors),
  "base": lambda e: " x ".join(e.bases),
  "value": lambda e: " x ".join(e.values),
}
_NUMBERS = [
  name for name in Effect._fields if name not in ("task", "outcome", "factors", "bases", "values")
]


def csv_text(found: Sequence[Effect]) -> str:
  """Returns the effects and interactions as CSV, one per line; what does not exist is empty."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(itertools.chain(_FIELDS, _NUMBERS))
  for effect in found:
    names = [_cell(str(field(effect))) for field in _FIELDS.values()]
    numbers = [getattr(effect, name) for name in _NUMBERS]
    writer.writerow([*names, *("" if value != value else value for value in numbers)])
  return text.getvalue()


def _cell(text: str) -> str:
  """Returns text that no spreadsheet takes for a formula."""
  text = exits.printable(text)
  try:
    float(text)
  except ValueError:
    return f"'{text}" if text[:1] in tuple("=+-@") else text
  return text
