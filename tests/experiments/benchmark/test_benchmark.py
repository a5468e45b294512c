"""Tests of the benchmark: its baselines' results, its timing, its targets, and its program."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from swept import ROOT

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import (
  baseline_sweep,
  cases,
  implementations,
  jax_baselines,
  layer_times,
  sweep_times,
  timing,
)
from experiments.benchmark.cases import FORWARD, GRADIENT, NORMS, TRAINING, Row, Shape
from experiments.benchmark.implementations import BASELINES, OURS
from experiments.benchmark.layer_times import TOLERANCE, difference, measure
from experiments.benchmark.report import picture
from experiments.benchmark.sweep_times import SweepTime
from experiments.benchmark.targets import (
  COST,
  LIMIT,
  MEMORY,
  SPEED,
  Measurement,
  Results,
  fastest_baseline,
  row_targets,
  sweep_targets,
)

SHAPE = Shape(batch=3, steps=7, inputs=5, hidden=4)
CELLS = ("elman", "gru", "lstm")
ALWAYS_INSTALLED = (OURS, "linen", "nnx")


@pytest.fixture(autouse=True)
def lenient():
  """Allows standard dtype and rank promotion, on which other libraries rely."""
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def build(name, row, measures=cases.MEASURES):
  params, xs = cases.data(row)
  try:
    return implementations.build(name, row, params, xs, measures)
  except jax_baselines.NotAvailable as reason:
    assert name not in ALWAYS_INSTALLED
    pytest.skip(f"{name}: {reason}")


def values(implementation):
  programs = implementation.programs
  return [
    implementation.ys(programs[FORWARD].call()),
    implementation.gradients(programs[GRADIENT].call()),
  ]


@functools.cache
def values_of_ours(row):
  return values(build(OURS, row, (FORWARD, GRADIENT)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other libraries emit them
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_baselines_compute_our_function_or_say_that_theirs_differs(baseline, cell):
  row = Row(cell, SHAPE, depth=2)
  theirs = build(baseline, row, (FORWARD, GRADIENT))
  found = values(theirs)
  assert found[0].shape == (7, 3, 4)
  assert (difference(found, values_of_ours(row)) > TOLERANCE) == bool(theirs.other)
  if baseline != "haiku":
    assert not theirs.other


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("baseline", ["torch_loop", "torch_cells"])
def test_norms_of_torch_loops_equal_those_of_our_probe(baseline, cell):
  row = Row(cell, SHAPE, depth=2)
  theirs, ours = (build(name, row, (NORMS,)) for name in (baseline, OURS))
  _, (_, found) = theirs.programs[NORMS].call()
  _, (_, probes) = ours.programs[NORMS].call()
  hidden = [getattr(probe, "hidden", probe) for probe in probes]
  assert difference([layer.numpy() for layer in found], hidden) < TOLERANCE


def training_losses(name, row):
  call = build(name, row, (TRAINING,)).programs[TRAINING].call
  return [float(call()) for _ in range(5)]


@functools.cache
def training_losses_of_ours(row):
  return training_losses(OURS, row)


@pytest.mark.parametrize("cell", ["elman", "lstm"])  # not gru: linen's GRU trains one more bias
@pytest.mark.parametrize("baseline", ["linen", "torch", "torch_loop"])
def test_training_steps_of_baselines_equal_ours(baseline, cell):
  row = Row(cell, SHAPE, depth=1)
  losses = training_losses(baseline, row)
  np.testing.assert_allclose(losses, training_losses_of_ours(row), rtol=1e-4)
  assert losses == sorted(losses, reverse=True)
  assert losses[-1] < losses[0]


def test_flops_follow_the_formula():
  row = Row("lstm", Shape(16, 100, 32, 64), 1)
  both = 3 * cases.flops_per_step(row) * row.shape.steps
  assert both == 6 * 4 * 64 * (32 + 64) * 16 * 100
  deep = Row("gru", Shape(2, 9, 5, 4), 3)
  assert cases.flops_per_step(deep) == 2 * 2 * 3 * 4 * ((5 + 4) + 2 * (4 + 4))


def test_interleaving_times_all_programs_in_turn():
  order = []
  calls = {name: lambda name=name: order.append(name) for name in "abc"}
  seconds = timing.interleave(calls, budget=0.01)
  assert set(seconds) == set("abc")
  assert all(len(times) >= 4 and min(times) > 0 for times in seconds.values())
  turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
  assert len(turns) >= 9  # each program has several turns


def test_slow_programs_get_fewer_rounds():
  order = []

  def wait(name):
    order.append(name)
    time.sleep(0.02)

  calls = {name: lambda name=name: wait(name) for name in "abc"}
  seconds = timing.interleave(calls, budget=1e-6)
  # Each program is called three times. The first call is timed, because it takes longer than the
  # program's share of the budget; the second is an untimed warm-up; the third is timed.
  assert sorted(order) == list("aaabbbccc")
  assert all(len(times) == 2 and min(times) >= 0.02 for times in seconds.values())


def test_the_only_call_of_each_program_is_timed_if_all_together_are_too_slow(monkeypatch):
  monkeypatch.setattr(timing, "_TOO_LONG", 0.01)
  calls = {"slow": lambda: time.sleep(0.02), "fast": lambda: None}
  seconds = timing.interleave(calls, budget=100.0)
  assert {name: len(times) for name, times in seconds.items()} == {"slow": 1, "fast": 1}


def test_dependency_limit_adds_up_over_layers(monkeypatch):
  monkeypatch.setattr(timing, "_PIECE", 0.01)
  shape = Shape(2, 5, 4, 4)
  one, three = (timing.dependency_limit(Row("gru", shape, depth)) for depth in (1, 3))
  assert 0 < one[0] < one[1]
  assert three[0] == pytest.approx(3 * one[0])
  assert three[1] > 3 * one[1]  # layers above the first also need the gradient of their inputs


def test_difference_is_relative_and_sees_nan():
  a = [np.array([3.0, 4.0]), np.array([1.0])]
  assert difference(a, a) == 0
  assert difference([np.array([3.0, 4.5]), a[1]], a) == pytest.approx(0.1)
  assert math.isnan(difference([a[0], np.array([math.nan])], a))


def test_a_baseline_that_differs_is_not_timed(monkeypatch):
  def wrong(cell, input_size, hidden_size):
    layer = jax_baselines._linen(cell, input_size, hidden_size)
    return layer._replace(apply=lambda params, xs: 1.01 * layer.apply(params, xs))

  monkeypatch.setitem(jax_baselines.LAYERS, "linen", wrong)
  seconds = {FORWARD: 0.01, GRADIENT: 0.01, TRAINING: 0.01}
  measurements = list(measure(Row("elman", SHAPE, 1), [OURS, "linen"], seconds))
  (refused,) = [m for m in measurements if m.implementation == "linen"]
  assert not refused.seconds
  assert "differs from ours by 0.0" in refused.note
  assert {m.measure for m in measurements if m.seconds} == set(cases.MEASURES)


def results(**medians):
  """Returns made-up results of one row, and the row.

  Args:
    **medians: milliseconds of each implementation's gradient; `norms` is our gradient with norms.
  """
  row = Row("gru", Shape(16, 100, 32, 64), 1)
  layers = [
    Measurement(row, name, GRADIENT, [ms / 1e3] * 3, temporaries=1000)
    for name, ms in medians.items()
    if name != "norms"
  ]
  layers.append(Measurement(row, OURS, NORMS, [medians["norms"] / 1e3], temporaries=1030))
  layers.append(Measurement(row, "haiku", GRADIENT, [1e-6], note="different function"))
  layers.append(Measurement(row, "equinox", GRADIENT, note="no such layer"))
  return Results({}, layers, {row: (1e-3, 2e-3)}), row


def test_targets_of_a_row():
  found, row = results(ours=2.0, norms=2.1, torch=3.0, nnx=2.4)
  assert fastest_baseline(found, row) == ("nnx", pytest.approx(2.4e-3))
  targets = {t.name: t for t in row_targets(found, row)}
  assert targets[SPEED].value == pytest.approx(1.2) and not targets[SPEED].met
  assert targets[COST].value == pytest.approx(0.05) and not targets[COST].met
  assert targets[MEMORY].value == pytest.approx(0.03) and not targets[MEMORY].met
  assert targets[LIMIT].value == pytest.approx(1.0) and targets[LIMIT].met


def test_targets_without_any_baseline():
  found, row = results(ours=2.0, norms=2.0)
  assert fastest_baseline(found, row) == ("", None)
  assert SPEED not in {t.name for t in row_targets(found, row)}


def test_targets_of_the_sweep():
  found, _ = results(ours=2.0, norms=2.0)
  found.sweep = [
    SweepTime(sweep_times.OURS_EVERY, 10.0, 5.0),
    SweepTime(sweep_times.TORCH_EVERY, 49.0, 40.0),
    SweepTime(sweep_times.LINEN, None, note="failed"),
    SweepTime(sweep_times.ONE, 20.0, 19.0),
    SweepTime(sweep_times.TWO, 15.0, 10.0),
  ]
  assert [(t.value, t.met) for t in sweep_targets(found)] == [(4.9, False), (1.9, True)]


def test_picture_has_a_bar_for_every_baseline_that_was_timed():
  found, _ = results(ours=2.0, norms=2.0, torch=3.0, nnx=1.0)
  (axis,) = picture(found).axes
  tops = sorted(bar.get_y() + bar.get_height() for bar in axis.patches)
  assert tops == pytest.approx([0.0005, 0.5, 1.5])


def test_sweep_is_timed_or_says_why_not(monkeypatch, sweep_in_process, capsys):
  def run(command, *, cwd, **_):
    assert command[:3] == (sys.executable, "-m", "experiments.sweep") and cwd == ROOT
    status = sweep_in_process(*command[3:])
    return subprocess.CompletedProcess(command, status, stderr=capsys.readouterr().err)

  monkeypatch.setattr(sweep_times, "subprocess", SimpleNamespace(run=run))
  tiny = ["--cell=elman", "--depth=1", "--truncation=full", "--seed=0", "--steps=2"]
  tiny += ["--hidden_size=4", "--sequence_length=8", "--batch_size=2", "--devices=1"]
  tiny.append("--measures=none")
  timed = sweep_times.time_sweep("tiny", tiny, devices=1)
  assert timed.note == " ".join(tiny)
  assert 0 < timed.training < timed.seconds
  failed = sweep_times.time_sweep("bad", ["--steps=0"], devices=1)
  assert failed.seconds is None
  assert "steps must be" in failed.note


def test_baselines_train_the_runs_of_the_reference_sweep():
  runs = baseline_sweep.runs(steps=20, log_every=1)
  assert len(runs) == len(set(runs)) == 36
  assert {run.truncation for run in runs} == {8, 32, None}


@pytest.mark.parametrize("cell", CELLS)
def test_torch_truncates_alike_in_chunks_and_in_the_loop(cell):
  torch = pytest.importorskip("torch", reason="torch is not installed")
  from experiments.benchmark import torch_layers

  torch.manual_seed(0)
  rnn = torch_layers.RNNS[cell](5, 4, 2)
  for name, parameter in rnn.named_parameters():
    if name.startswith("bias_hh"):
      torch.nn.init.zeros_(parameter)
  xs = torch.randn(7, 3, 5)
  grads = {}
  for k in (3, None):
    for name in ("chunks", "loop"):
      rnn.zero_grad()
      chunks = name == "chunks"
      ys = (
        torch_layers.truncated(rnn, xs, k)
        if chunks
        else torch_layers.truncated_loop(cell, rnn, xs, k)[0]
      )
      (ys**2).mean().backward()
      grads[k, name] = rnn.weight_hh_l0.grad.numpy().copy()
  assert difference(grads[3, "loop"], grads[3, "chunks"]) < TOLERANCE
  assert difference(grads[None, "loop"], grads[None, "chunks"]) < TOLERANCE
  assert difference(grads[3, "loop"], grads[None, "loop"]) > 0.01


@pytest.mark.parametrize("library", ["torch", "linen"])
def test_baselines_train_a_run(library, monkeypatch):
  sizes = {"hidden_size": "4", "sequence_length": "8", "batch_size": "2"}
  settings = baseline_sweep.settings() | sizes
  monkeypatch.setattr(baseline_sweep, "settings", lambda: settings)
  if library == "torch":
    pytest.importorskip("torch", reason="torch is not installed")
  train = {"torch": baseline_sweep.train_torch, "linen": baseline_sweep.train_linen}[library]
  train(baseline_sweep.Run("lstm", 2, 8, seed=0, steps=2, log_every=2))


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--shape=2x3x4", "shape must be BxTxDxH, four integers from 1, got '2x3x4'"),
    ("--shape=2x3x4x0", "got '2x3x4x0'"),
    ("--baselines=tensorflow", "baseline 'tensorflow'"),
    ("--peers=tensorflow", "baseline 'tensorflow'"),  # the flag's old name
    ("--cell=lstn", "did you mean 'lstm'?"),
    ("--depth=0", "depth must be an integer from 1"),
    ("--threads=100000", "threads must be at most the"),
    ("--instruction_set=AVX", "did you mean 'AVX2'?"),
    ("--output_dir=", "--output_dir must name a folder"),
    ("quick", "Arguments must be flags"),
  ],
)
def test_wrong_flags_end_in_one_line(flag, message, program_here, capfd):
  assert program_here(benchmark, flag) == 2
  error = capfd.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other libraries emit them
def test_program_runs_from_flags_to_picture(tmp_path, monkeypatch, program_here, capsys):
  seconds = {FORWARD: 0.02, GRADIENT: 0.02, TRAINING: 0.02}
  monkeypatch.setattr(layer_times, "QUICK_SECONDS", seconds)
  monkeypatch.setattr(timing, "_PIECE", 0.01)
  precision = jax.config.jax_default_matmul_precision
  flags = (
    "--quick",
    "--cell=gru",
    "--shape=2x3x4x5",
    "--depth=1",
    "--baselines=linen,torch,haiku",
    f"--output_dir={tmp_path}",
  )
  try:
    assert program_here(benchmark, *flags) == 0
  finally:
    jax.config.update("jax_default_matmul_precision", precision)
  printed = capsys.readouterr().out
  assert "gru 2x3x4x5 depth 1" in printed
  assert "P1: met in" in printed
  assert printed.index("fastest baseline / ours") < printed.index("gru 2x3x4x5 depth 1")
  assert "| gru | 2×3×4×5 | 1 |" in (tmp_path / "tables.md").read_text()
  assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
  record = json.loads((tmp_path / "benchmark.json").read_text())
  timed = {(m["peer"], m["measure"]) for m in record["layers"] if m["seconds"]}
  assert timed >= {(OURS, measure) for measure in cases.MEASURES}
  assert timed >= {("linen", GRADIENT), ("linen", TRAINING)}
  assert record["machine"]["versions"]["jax"] == jax.__version__
  ours = next(m for m in record["layers"] if (m["peer"], m["measure"]) == (OURS, GRADIENT))
  assert ours["minimum"] <= ours["median"] <= max(ours["seconds"])
