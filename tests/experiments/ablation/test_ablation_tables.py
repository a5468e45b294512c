"""Tests of the tables and the figure, with labels that each format would interpret."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from studies import grid, outcome

from experiments.ablation import tables
from experiments.ablation.effects import effects
from experiments.ablation.figure import forest

HOSTILE = r"=a|b <script>[x](y) $x_{1}$ \input{z} %#~^&*`!" + "\x1b[31m\u202e\n[red]"


def hostile():
  study = grid({"cell": (HOSTILE, "+1 " + HOSTILE)}, 2, [outcome([1.0, 2.0, 3.0, 5.0])])
  return effects(study)


def planted():
  """Returns effects of which one is significant, one is unknown, and one is an interaction."""
  rng = np.random.default_rng(1)
  axes = {"cell": ("elman", "lstm"), "depth": ("1", "2")}
  loss = np.repeat([0.0, 0.0, 5.0, 5.0], 8) + rng.normal(size=32)
  low = np.full(32, 11.0)
  memory = outcome(low, 1, "effective_memory", np.where(np.arange(32) < 16, np.inf, low))
  return effects(grid(axes, 8, [outcome(loss), memory]))


def test_csv_holds_every_number_and_no_formula():
  (found,) = hostile()
  (row,) = csv.DictReader(io.StringIO(tables.csv_text([found])))
  assert row["base"].startswith("'=a|b <script>") and row["value"].startswith("'+1 ")
  assert not re.search(r"[\x00-\x1f\u202e]", row["base"])
  assert float(row["effect"]) == found.effect == 2.5
  assert (row["seeds"], row["test"], row["statistic"]) == ("2", "differences", "mean")
  lines = tables.csv_text(planted()).splitlines()
  assert len(lines) == 1 + 4 + 2
  assert {len(line.split(",")) for line in lines} == {25}


@pytest.mark.parametrize("text", ["-1", "1e-05", "elman"])
def test_csv_leaves_numbers_and_words_as_they_are(text):
  found = effects(grid({"setting": ("0", text)}, 2, [outcome([1.0, 2.0, 3.0, 5.0])]))
  (row,) = csv.DictReader(io.StringIO(tables.csv_text(found)))
  assert row["value"] == text


def test_markdown_escapes_what_it_would_interpret():
  text = tables.markdown(hostile(), [HOSTILE])
  assert not re.search(r"<|>|[\x00-\x09\x0b-\x1f\u202e]", text)
  assert not re.search(r"(?<!\\)[\[\]`*]", text)
  (line,) = (line for line in text.splitlines() if line.startswith("| cell"))
  assert len(re.findall(r"(?<!\\)\|", line)) == len(tables.TITLES) + 1


def test_latex_escapes_what_it_would_interpret():
  text = tables.latex(hostile(), [HOSTILE])
  comments = [line for line in text.splitlines() if line.startswith("%")]
  (line,) = (line for line in text.splitlines() if line.startswith("cell &"))
  assert len(comments) == 2 and not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
  assert len(re.findall(r"(?<!\\)&", line)) == 6
  assert r"\$x\_\{1\}\$ \textbackslash{}input\{z\} \%\#\textasciitilde{}" in line
  assert line.count("{") == line.count("}")
  without = re.sub(r"\\[%#&$_{}]", "", line)
  assert without.count("$") % 2 == 0 and "%" not in without and "#" not in without


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("-0.25", "$-0.25$"),
    ("0.25", "0.25"),
    ("-1.2e-05 to +3e+10", r"$-1.2\times10^{-5}$ to $+3\times10^{10}$"),
    ("1e-05 → 0.001", r"$1\times10^{-5}$ $\to$ 0.001"),
    ("chrono-1", "chrono-1"),
    ("< 0.001", "$<$ 0.001"),
    ("–", "--"),
  ],
)
def test_latex_numbers_have_minus_signs(text, expected):
  assert tables._latex(text) == expected


def test_latex_is_a_booktabs_table_with_a_heading_for_each_outcome():
  lines = tables.latex(planted(), []).splitlines()
  assert lines[1:3] == [r"\begin{tabular}{llrrrrrl}", r"\toprule"]
  assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
  assert sum("multicolumn{8}" in line for line in lines) == 4


def test_brackets_are_no_markup_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "400")
  tables.show(hostile(), [])
  out = capsys.readouterr().out
  assert "[red]" in out and "\\x1b[31m" in out and "[31m" not in out.replace("\\x1b[31m", "")


def test_notes_say_how_many_seeds_a_test_takes():
  study = grid({"cell": ("a", "b", "c")}, 5, [outcome(np.arange(15.0) ** 2)])
  lines = tables.notes(effects(study), study._replace(remarks=["No run diverged."]))
  assert lines == [
    "No run diverged.",
    "With 5 seeds, the smallest possible p is 0.062, so no test can reach 0.05; at least 6 seeds "
    "are needed.",
    "With Holm's correction over 2 effects, at least 7 seeds are needed for any p to reach 0.05.",
  ]
  enough = grid({"cell": ("a", "b", "c")}, 7, [outcome(np.arange(21.0) ** 2)])
  assert tables.notes(effects(enough), enough) == []
  one = grid({"cell": ("a", "b", "c")}, 1, [outcome(np.arange(3.0) ** 2)])
  assert tables.notes(effects(one), one) == [
    "With one seed, there is neither an interval nor a test."
  ]


def test_notes_name_values_without_pairs():
  study = grid({"cell": ("a", "b", "c")}, 7, [outcome(np.arange(21.0) ** 2)])
  study = study._replace(seeds=[*study.seeds[:14], *range(7, 14)])
  (line,) = tables.notes(effects(study), study)
  assert line.startswith("No runs of one seed differ in cell alone for c:")


def test_the_figure_shows_effects_intervals_and_what_is_unknown():
  found = planted()
  figure = forest(found)
  loss, memory = (axis for axis in figure.axes if axis.get_title())
  assert [label.get_text() for label in loss.get_yticklabels()] == [
    "cell: elman → lstm",
    "depth: 1 → 2",
  ]
  points = {
    (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor()
    for line in loss.lines
    if line.get_marker() == "o"
  }
  cell, depth = (e for e in found if e.outcome.name == "held_out_loss" and len(e.factors) == 1)
  assert points.keys() == {(cell.effect, 0), (depth.effect, 1)}
  assert points[depth.effect, 1] == "white" != points[cell.effect, 0]  # filled: significant
  ends = [tuple(line.get_xdata()) for line in loss.lines if list(line.get_ydata()) == [0, 0]]
  assert ends == [(cell.low, cell.high)]
  assert [text.get_text() for text in memory.texts] == ["16 beyond range, of 32"]  # of the cell
  assert loss.get_xlabel() == "← better" and memory.get_xlabel() == "better →"


def test_the_figure_draws_hostile_labels_as_text():
  figure = forest(hostile(), 3.25)
  assert figure.get_size_inches()[0] == 3.25
  FigureCanvasAgg(figure)
  figure.draw_without_rendering()  # mathematics that does not parse would raise an error
  label = figure.axes[0].get_yticklabels()[0].get_text()
  assert r"\$x {1}\$" in label.replace("\n", " ")


def test_the_figure_shows_at_most_forty_effects():
  values = tuple(map(str, range(60)))
  figure = forest(effects(grid({"depth": values}, 2, [outcome(np.arange(120.0) ** 2)])))
  assert len(figure.axes[0].get_yticklabels()) == 40
  assert "40 of 59 effects" in figure.get_suptitle()
