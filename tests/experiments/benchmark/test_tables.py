"""The summary: its columns per instruction set, and what makes two runs comparable."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from swept import ROOT

from experiments.benchmark import estimator_times, machine, tables
from experiments.benchmark.cases import FORWARD, GRADIENT, NORMS, Row, Shape
from experiments.benchmark.implementations import OURS
from experiments.benchmark.machine import RESTRICTED
from experiments.benchmark.targets import Measurement, Results
from rnn_jax.estimators import ESTIMATORS


def results(instructions, torch, **about):
  """Returns made-up results of two rows, in which ours takes 2 ms and torch's LSTM `torch` ms."""
  described = {
    "versions": {"jax": "1.2.3"},
    "device": "cpu",
    "cpu": "A processor",
    "cores": 2,
    "threads": 2,
    "instruction_set": instructions,
    "load_average": (0.5, 0.5, 0.5),
    "environment": {},
    "matmul_precision": "highest",
    "commit": "0123456789",
    "code": {"a.py": "abc"},
  }
  lstm, gru = (Row(cell, Shape(16, 100, 32, 64), 1) for cell in ("lstm", "gru"))
  layers = [Measurement(row, OURS, GRADIENT, [2e-3]) for row in (lstm, gru)]
  layers += [Measurement(row, OURS, NORMS, [2.1e-3]) for row in (lstm, gru)]
  layers.append(Measurement(lstm, "torch", GRADIENT, [torch * 1e-3]))
  limits = dict.fromkeys((lstm, gru), (5e-4, 1.5e-3))
  return Results({**described, **about}, layers, limits)


def saved(folder, found):
  (folder / "benchmark.json").write_text(json.dumps(found.as_json()))
  return folder / "benchmark.json"


def test_each_instruction_set_has_its_columns_the_restricted_one_last(tmp_path):
  native = saved(tmp_path, results("AVX-512", 3.0))
  runs = tables.runs(results(RESTRICTED, 1.0, load_average=(1.5, 0.5, 0.5)), native)
  assert list(runs) == ["AVX-512", RESTRICTED]
  text = tables.summary(runs, ["lstm 16x100x32x64 depth 1", "gru 16x100x32x64 depth 1"])
  numbers = ["0.75", "+5%", "2.00"]
  assert text.rows == [
    ["lstm", "16×100×32×64", "1", "1.50 torch", *numbers, "0.50 torch", *numbers],
    ["gru", "16×100×32×64", "1", "", *numbers, "", *numbers],
  ]
  assert len(text.header) == 11
  assert text.markdown().count("\n| ") == 4
  first, second = tables.ranges(runs)
  assert first.startswith(
    "AVX-512: fastest baseline / ours is 1.50 to 1.50 (lstm); products / ours"
  )
  assert second.endswith("norms add 5% to 5%, median 5%.")


@pytest.mark.parametrize(
  "about", [{"cpu": "Another"}, {"threads": 1}, {"versions": {}}, {"code": {"a.py": "def"}}]
)
def test_runs_that_differ_in_more_than_the_instruction_set_stay_apart(about, tmp_path):
  other = saved(tmp_path, results("AVX-512", 3.0, **about))
  assert list(tables.runs(results(RESTRICTED, 1.0), other)) == [RESTRICTED]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"machine": 1}'])
def test_a_missing_or_damaged_run_is_ignored(text, tmp_path):
  other = tmp_path / "benchmark.json"
  if text is not None:
    other.write_text(text)
  assert list(tables.runs(results("AVX-512", 1.0), other)) == ["AVX-512"]


def test_every_cell_has_a_row_and_markdown_holds_both_tables(tmp_path):
  row = Row("lru", Shape(32, 128, 128, 128), 1)
  found = results("AVX2", 3.0)
  found.cells = [
    Measurement(row, method, measure, [seconds], 0.5, 2**20)
    for method in ("loop", "associative")
    for measure, seconds in ((FORWARD, 128e-6), (GRADIENT, 0.128), (NORMS, 0.1536))
  ]
  assert tables.every_cell(found.cells).rows == [
    ["lru", "loop", "1.00", "1000", "1200", "0.5", "1.0"],
    ["lru", "associative", "1.00", "1000", "1200", "0.5", "1.0"],
  ]
  text = tables.markdown(found, tables.runs(found, tmp_path / "none"))
  assert "A processor (cpu), AVX2, 2 threads on 2 cores" in text
  assert "| lstm | 16×100×32×64 | 1 | 1.50 torch |" in text
  assert "| lru | associative | 1.00 |" in text


def test_every_estimator_has_a_row_with_both_lengths(monkeypatch):
  monkeypatch.setattr(estimator_times, "_SECONDS", 0.01)
  shapes = Shape(2, 5, 3, 4), Shape(2, 400, 3, 4)
  found = list(estimator_times.measure(("indrnn",), ("bptt", "rtrl", "kf_rtrl"), shapes))
  assert [(m.implementation, m.row.shape) for m in found] == [
    (name, shape) for name in ("bptt", "rtrl") for shape in shapes
  ]
  memory = {(m.implementation, m.row.shape.steps): m.temporaries for m in found}
  growth = {name: (memory[name, 400] - memory[name, 5]) / 395 for name in ("bptt", "rtrl")}
  # `bptt` stores the states of all steps; `rtrl` only outputs, errors and keys.
  assert growth["rtrl"] < 0.85 * growth["bptt"]  # 95 and 136 bytes a step
  table = tables.estimators(found)
  assert tuple(table.header)[2:] == (
    *("time per step, µs, T = 5", "time per step, µs, T = 400"),
    *("temporaries, MiB, T = 5", "temporaries, MiB, T = 400"),
  )
  assert [row[:2] for row in table.rows] == [["indrnn", "bptt"], ["indrnn", "rtrl"]]
  about = results("AVX2", 3.0)
  about.estimators = found
  saved = about.as_json()["estimators"]
  assert [m["peer"] for m in saved] == ["bptt", "bptt", "rtrl", "rtrl"]
  assert {name.rstrip("0123456789.") for name in estimator_times.ESTIMATORS} == {*ESTIMATORS}


@pytest.mark.parametrize(
  ("architecture", "flags", "name"),
  [
    ("x86_64", "flags : sse2 avx2 avx512f", "AVX-512"),
    ("x86_64", "flags : sse2 avx2", "AVX2"),
    ("x86_64", "flags : sse2", "x86_64"),
    ("x86_64", None, "x86_64"),  # macOS has no /proc/cpuinfo
    ("aarch64", "Features : asimd", "NEON"),
    ("arm64", None, "NEON"),
  ],
)
def test_instruction_set_is_named(architecture, flags, name, monkeypatch):
  def read_text(_):
    if flags is None:
      raise FileNotFoundError
    return flags

  monkeypatch.setattr(machine, "platform", SimpleNamespace(machine=lambda: architecture))
  monkeypatch.setattr(Path, "read_text", read_text)
  assert machine.instruction_set() == name
  machine.check_instruction_set(machine.NATIVE)
  if name not in ("AVX-512", "AVX2"):
    with pytest.raises(ValueError, match=r"--instruction_set must be native .*, got AVX2"):
      machine.check_instruction_set(machine.AVX2)


@pytest.mark.skipif(
  machine.instruction_set() != "AVX-512", reason="nothing to restrict without AVX-512"
)
def test_restriction_reaches_the_libraries():
  code = (
    "from experiments.benchmark import machine, timing; import jax\n"
    "print(machine.configure(1, machine.AVX2)['instruction_set'])\n"
    "text = jax.jit(lambda x: x @ x).lower(jax.numpy.ones((64, 64))).compile().as_text()\n"
    "assert 'ynn' not in text, text\n"
    "if timing.torch_is_installed():\n"
    "  import torch\n"
    "  assert torch.backends.cpu.get_cpu_capability() == 'AVX2'\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout) == (0, f"{RESTRICTED}\n"), done.stderr
