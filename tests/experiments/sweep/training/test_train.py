"""Interrupted runs get the same records as uninterrupted ones; a failed run stops no other run."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import pytest
from absl.testing import flagsaver
from other_code import add_start
from train_all import compile_once

from experiments.chaos import records_of
from experiments.cli import flag_table
from experiments.runtime import memory
from experiments.sweep import execution
from experiments.sweep.config.flags import TABLE
from experiments.sweep.config.resolve import resolve as resolve_flags
from experiments.sweep.records import gathered, locking, origins, round_checkpoints, run_files
from experiments.sweep.training import train as training
from rnn_jax import make_cell
from rnn_jax.cells import CELLS

# Four runs, which form four rounds on one device. Every second run diverges in its first call of
# the program; the other runs take three calls.
FLAGS = (
  *("--task=adding", "--cell=elman", "--seed=0,1", "--learning_rate=0.01,1e30", "--hidden_size=4"),
  *("--sequence_length=8", "--batch_size=4", "--steps=120", "--log_every=30"),
  *("--checkpoint_every=50", "--devices=1"),
)


@pytest.fixture
def resolve(sweep_flags, monkeypatch):
  """A function `(folder, *flags) -> Sweep`, which resolves the flags and prepares the folder."""
  monkeypatch.setattr(training, "compile_group", compile_once)

  def resolve(folder, *more):
    with flagsaver.flagsaver():
      sweep_flags(["sweep", *FLAGS, *more, f"--output_dir={folder}"])
      sweep = resolve_flags(flag_table.given(TABLE))
      locking.prepare(sweep)
    # Compile here, because `train_runs` would call `stop` an unpredictable number of times while it
    # waits for a compilation.
    with jax.numpy_dtype_promotion("standard"):  # affects only this thread
      runs = list(sweep.ids.values())
      compile_once(runs, sweep.settings, sweep.tasks_of(runs[0]), sweep.layout)
    return sweep

  return resolve


def train(sweep, calls=None, on_progress=lambda *_: None):
  """Trains the unfinished runs; returns whether training was stopped.

  The `stop` callback of `train_runs` returns False in its first `calls` calls, and then True. If
  `calls` is None, it always returns False.
  """
  left = [name for name in sweep.ids if not run_files.is_done(sweep.folder, name)]
  asked = iter(range(calls if calls is not None else 10**9))
  try:
    training.train_runs(sweep, left, lambda: next(asked, None) is None, on_progress)
  except training.Stopped:
    return True
  return False


def contents(sweep):
  round_checkpoints.clear(sweep.folder)
  gathered.write(sweep.folder, run_files.statuses(sweep.folder, sweep.ids))
  return records_of(sweep.folder)


@pytest.fixture(scope="module")
def expected():
  return {}


@pytest.fixture
def whole(resolve, expected, tmp_path_factory):
  """A function `(*flags) -> records`, which trains a sweep without interruption."""

  def whole(*more):
    if more not in expected:
      sweep = resolve(tmp_path_factory.mktemp("whole"), *more)
      assert not train(sweep)
      expected[more] = contents(sweep)
    return expected[more]

  return whole


@pytest.mark.parametrize("calls", [2, 5])
def test_a_sweep_stopped_repeatedly_ends_with_the_same_records(resolve, whole, tmp_path, calls):
  stops = 0
  while train(resolve(tmp_path), calls):
    stops += 1
    assert stops < 40
  assert stops
  assert contents(resolve(tmp_path)) == whole()
  assert not (tmp_path / "checkpoints").exists()


def test_progress_is_the_sum_over_all_runs_and_continues_where_it_stopped(resolve, tmp_path):
  two = ("--learning_rate=0.01", "--devices=2")  # both runs are in one round
  reports = []

  def progress(num_done):
    reports.clear()
    return execution._summed(lambda activity, done, *_: reports.append((activity, done)), num_done)

  assert train(resolve(tmp_path, *two), calls=2, on_progress=progress(3))
  assert [activity for activity, _ in reports] == ["compiling", *["training"] * 3]
  assert [done for _, done in reports] == pytest.approx([3, 3, 3 + 50 / 121, 3 + 100 / 121])
  assert not train(resolve(tmp_path, *two), on_progress=progress(3))
  resumed = [("compiling", 3), ("resuming", 3 + 100 / 121), ("resuming", 3 + 200 / 121)]
  assert [activity for activity, _ in reports[:4]] == [*[a for a, _ in resumed], "training"]
  done = [done for _, done in reports]
  assert done[:4] == pytest.approx([*[d for _, d in resumed], 3 + 200 / 121])
  assert done == sorted(done) and done[-1] == 5


def test_a_sweep_resumes_on_another_number_of_devices(resolve, whole, tmp_path):
  assert train(resolve(tmp_path, "--devices=2"), calls=1)  # each round has two runs
  assert train(resolve(tmp_path), calls=3)
  assert not train(resolve(tmp_path, "--devices=2"))
  assert contents(resolve(tmp_path)) == whole()


def test_a_round_that_different_code_began_starts_over(resolve, whole, tmp_path):
  one = ("--seed=0", "--learning_rate=0.01")
  assert train(resolve(tmp_path, *one), calls=2)
  (path,) = tmp_path.glob("checkpoints/*/runs.json")
  other = add_start(tmp_path, "rnn_jax/cells/elman.py")
  path.write_text(json.dumps({**json.loads(path.read_text()), "code": other}))
  kept = ("--keep_stale", *one)
  assert train(resolve(tmp_path, *kept), calls=0)
  assert json.loads(path.read_text())["code"] == other
  assert train(resolve(tmp_path, *one), calls=2)
  assert json.loads(path.read_text())["code"] == origins.key()
  assert not train(resolve(tmp_path, *one))
  assert contents(resolve(tmp_path, *one)) == whole(*one)


def flip(path):
  data = bytearray(path.read_bytes())
  if data:
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("what", ["*/100/*.json", "*/100/**/*", "*/runs.json", "*/*/*.json"])
def test_damaged_checkpoints_are_reported_and_not_resumed_from(
  resolve, whole, tmp_path, capsys, what, damage
):
  one = ("--seed=0", "--learning_rate=0.01")
  assert train(resolve(tmp_path, *one), calls=2)  # stops after two checkpoints are written
  paths = [path for path in (tmp_path / "checkpoints").glob(what) if path.is_file()]
  assert paths
  for path in paths:
    damage(path)
  assert not train(resolve(tmp_path, *one))
  err = capsys.readouterr().err
  assert "warning: " in err and "is damaged" in err and str(paths[0].parents[0]) in err
  assert contents(resolve(tmp_path, *one)) == whole(*one)


def test_a_checkpoint_of_another_sweep_is_refused(resolve, tmp_path):
  assert train(resolve(tmp_path / "a"), calls=2)
  other = resolve(tmp_path / "b", "--log_every=15")
  (place,) = (tmp_path / "a" / "checkpoints").iterdir()
  ids = json.loads((place / "runs.json").read_text())["runs"]
  changed = dataclasses.replace(other, ids=dict(zip(ids, other.ids.values(), strict=False)))
  shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
  with pytest.raises(ValueError, match="its log_every"):
    train(changed)


def broken(hidden_size, *, scale=1.0):
  """Builds a cell that does not compile, because it calls a missing foreign function."""
  cell = make_cell("elman", hidden_size)

  def update(params, carry, drive, recurrent):
    missing = jax.ffi.ffi_call("missing_function", jax.ShapeDtypeStruct(carry.shape, carry.dtype))
    new = cell.update(params, carry, drive, recurrent)
    return new + missing(jax.lax.stop_gradient(new))

  return cell._replace(update=update)


def test_a_cell_that_does_not_compile_does_not_stop_other_runs(
  monkeypatch, tmp_path, sweep_in_process, capsys
):
  works = CELLS["irnn"]
  monkeypatch.setitem(CELLS, "irnn", broken)
  flags = [*FLAGS, "--cell=irnn,elman", "--learning_rate=0.01", "--seed=0"]
  flags += ["--measures=none", f"--output_dir={tmp_path}"]
  for more in ((), ("--retry_failed",), ()):  # the run fails, fails again, and is then skipped
    assert sweep_in_process(*flags, *more) == 2
    out, err = capsys.readouterr()
    assert "failed: irnn-" in out and "0 diverged, 1 failed." in out
    assert "Traceback" not in err
  ended, failed = sorted((tmp_path / "runs").iterdir())
  reason = json.loads((failed / "status.json").read_text())["reason"]
  assert reason.startswith("compilation: JaxRuntimeError: ") and "missing_function" in reason
  assert "Traceback" in (failed / "error.txt").read_text()
  assert run_files.is_done(tmp_path, ended.name)
  lines = (tmp_path / "summary.csv").read_text().splitlines()
  assert len(lines) == 3 and ",failed," in lines[1] and ",finished," in lines[2]
  monkeypatch.setitem(CELLS, "irnn", works)
  assert sweep_in_process(*flags, "--retry_failed") == 0
  assert not (failed / "error.txt").exists()


def test_a_program_that_exceeds_the_memory_is_refused_with_advice(
  monkeypatch, tmp_path, sweep_in_process
):
  monkeypatch.setattr(memory, "available", lambda: 2**13)  # 8 KiB
  assert sweep_in_process(*FLAGS, "--seed=0", f"--output_dir={tmp_path}") == 2
  run, *_ = (tmp_path / "runs").iterdir()
  reason = json.loads((run / "status.json").read_text())["reason"]
  assert reason.startswith("compilation: ValueError: The compiled program needs ")
  advice = "lower --sequence_length (8), --batch_size (4) or the hidden size (4)."
  wanted = f" GiB on 1 device, but this machine has 0.0 GiB. Pass --remat=sqrt, or {advice}"
  assert reason.endswith(wanted)
