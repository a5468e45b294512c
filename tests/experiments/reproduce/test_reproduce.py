"""Tests of the reproduce command: its output, the records that it writes, and its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.reproduce import __main__ as reproduce
from experiments.reproduce.figure import Figure, Outcome, absolute
from experiments.reproduce.figures import FIGURES
from experiments.runtime import exits

ROOT = Path(__file__).parents[3]
# Durations in seconds of the figures in `program`.
TIMES = {"BAD": 1, "OFF": 1, "GOOD": 1, "SLOW": 100}


def draw(figure):
  figure.subplots().plot([0, 1])


def outcome(measured):
  rows = [{"a": 1, "b": float("nan")}, {"a": 2, "c": "x|y"}]
  return Outcome(rows, [absolute("a | b", measured, 1.0, 0.1)], draw, ["a note [1]"])


def fail():
  raise ArithmeticError("no\nway")


def stop():
  raise KeyboardInterrupt


def figure(run, seconds=1, seeds=()):
  return Figure("A [title]", "setting", "source", seconds, run, seeds)


@pytest.fixture
def program(monkeypatch):
  """`program(*names, **flags)` runs the command with four figures that replace the real ones."""
  others = {
    "BAD": figure(fail),
    "OFF": figure(lambda: outcome(float("nan"))),
    "GOOD": figure(lambda: outcome(1.05), seeds=(3, 4)),
    "SLOW": figure(stop, seconds=100),
  }
  monkeypatch.setattr(reproduce, "FIGURES", others)

  def call(*names, **flags):
    values = {"figure": names, "list": False, "budget": "full", "report": None, **flags}
    monkeypatch.setattr(reproduce.flags, "FLAGS", SimpleNamespace(**values))
    reproduce.main([])

  return call


def record(folder: Path, name: str):
  return json.loads((folder / name / "checks.json").read_text())


def test_a_figure_that_fails_is_not_reproduced_and_does_not_stop_the_others(
  program, tmp_path, capsys
):
  report = tmp_path / "deep" / "RESULTS.md"
  (tmp_path / "BAD").mkdir()
  (tmp_path / "BAD" / "table.csv").write_text("of an earlier run")
  with pytest.raises(SystemExit) as ended:
    program("GOOD,BAD", "OFF", output_dir=str(tmp_path), report=str(report))
  assert ended.value.code == 1
  printed = capsys.readouterr()
  assert "1 of 3 reproduced, not BAD, OFF" in printed.out
  assert "A [title]" in printed.out and "a note [1]" in printed.out
  assert "error: ArithmeticError: no way" in printed.out
  assert not printed.err

  statuses = {name: record(tmp_path, name)["reproduced"] for name in ("BAD", "OFF", "GOOD")}
  assert statuses == {"BAD": False, "OFF": False, "GOOD": True}
  assert record(tmp_path, "BAD")["error"] == "ArithmeticError: no way"
  assert {p.name for p in (tmp_path / "BAD").iterdir()} == {"checks.json"}
  assert record(tmp_path, "OFF")["checks"][0]["measured"] == "nan"
  good = record(tmp_path, "GOOD")
  assert good["seeds"] == [3, 4] and good["versions"]["jax"] and good["seconds"] >= 0
  assert (tmp_path / "GOOD" / "table.csv").read_text().split() == ["a,b,c", "1,nan,", "2,,x|y"]
  assert (tmp_path / "GOOD" / "picture.png").read_bytes().startswith(b"\x89PNG")

  text = report.read_text()
  for line in (
    "| BAD | A [title] | not reproduced | 0 |",
    "| SLOW | | not run | |",
    "| OFF | A [title] | not reproduced | 0 |",
    "## GOOD. A [title]: reproduced",
    "- Seeds: 3, 4",
    "It failed: ArithmeticError: no way",
    r"| a \| b | 1.05 | 1 ± 0.1 | met |",
    r"| a \| b | nan | 1 ± 0.1 | **not met** |",
    r"| 2 |  | x\|y |",
  ):
    assert line in text.splitlines(), line


def test_the_program_returns_without_error_if_all_figures_are_reproduced(program, tmp_path, capsys):
  program("GOOD", output_dir=str(tmp_path))
  assert "1 of 1 reproduced." in capsys.readouterr().out


def test_ctrl_c_prints_one_line(program, tmp_path, monkeypatch):
  class Interrupted(BaseException):
    pass

  def interrupted(message):
    raise Interrupted(message)

  monkeypatch.setattr(exits, "interrupted", interrupted)
  with pytest.raises(Interrupted, match=f"^3 of 4 figures are finished, see {tmp_path}.$"):
    program("all", output_dir=str(tmp_path))


def test_the_quick_budget_skips_slow_figures(program, tmp_path, capsys):
  program("GOOD,SLOW", budget="quick", output_dir=str(tmp_path))
  assert "Skipped, since they take more than 10 s: SLOW." in capsys.readouterr().out
  assert not (tmp_path / "SLOW").exists()


@pytest.mark.parametrize(
  ("names", "flags", "message"),
  [
    (["GOOD,GOODS"], {}, "Unknown figure 'GOODS'; did you mean 'GOOD'? Choose one of: BAD, GOOD,"),
    (["GOOD,"], {}, "Unknown figure ''. Choose one of: BAD, GOOD, OFF, SLOW, all."),
    ([], {}, "--figure must name one of BAD, OFF, GOOD, SLOW, or be all."),
    (["GOOD"], {"output_dir": ""}, "--output_dir must name a folder, got ''."),
    (["GOOD"], {"report": ""}, "--report must name a file, got ''."),
    (["GOOD"], {"output_dir": "/dev/null/x"}, "--output_dir or --report could not be read or"),
  ],
)
def test_wrong_flags_print_a_one_line_error(program, names, flags, message, capsys):
  with pytest.raises(SystemExit) as ended:
    program(*names, **{"output_dir": "nowhere", **flags})
  assert ended.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_list_names_every_figure(program, capsys):
  program(list=True, output_dir="nowhere")
  lines = capsys.readouterr().out.splitlines()
  assert lines[2:] == [f"| {n} | {t} | A [title] |" for n, t in TIMES.items()]


def test_the_readme_has_the_table_that_list_prints(capsys):
  reproduce.print_list()
  readme = (ROOT / "experiments" / "reproduce" / "README.md").read_text(encoding="utf-8")
  assert f"\n\n{capsys.readouterr().out}\n" in readme


@pytest.mark.parametrize("name", FIGURES)
def test_results_hold_the_texts_of_the_figures(name):
  text = (ROOT / "experiments" / "RESULTS.md").read_text(encoding="utf-8")
  figure = FIGURES[name]
  header, section = text.split(f"\n## {name}. ")[0], text.split(f"\n## {name}. ")[1]
  lines = section.split("\n## ")[0].splitlines()
  title, _, status = lines[0].rpartition(": ")
  assert title == figure.title
  assert lines[2:6] == [
    figure.setting,
    "",
    f"- Source: {figure.source}",
    f"- Seeds: {', '.join(map(str, figure.seeds)) or 'none'}",
  ]
  assert f"| {name} | {figure.title} | {status} | " in header
  assert ("**not met**" in section.split("\n## ")[0]) == (status == "not reproduced")


def test_quick_figures_are_reproduced(tmp_path):
  # The command runs with LLVM's optimizations, which the tests otherwise turn off, as it does for
  # users. This is also faster.
  unoptimized = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
  env = {name: value for name, value in os.environ.items() if name not in unoptimized}
  flags = ("--figure=all", "--budget=quick", f"--output_dir={tmp_path}")
  result = subprocess.run(
    (sys.executable, "-m", "experiments.reproduce", *flags, f"--report={tmp_path / 'RESULTS.md'}"),
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  quick = [name for name, figure in FIGURES.items() if figure.seconds <= 10]
  assert {"F3", "F6", "F7"} <= set(quick)
  assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == sorted(quick)
  for name in quick:
    assert f"{name}: reproduced" in result.stdout
    names = {p.name for p in (tmp_path / name).iterdir()}
    assert names == {"checks.json", "table.csv", "picture.png", "picture.svg"}
    assert record(tmp_path, name)["checks"]
    assert f"## {name}. {FIGURES[name].title}: reproduced" in (tmp_path / "RESULTS.md").read_text()
