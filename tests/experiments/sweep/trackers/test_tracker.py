"""Tests of trackers: what they hold equals the records, and their errors lose no run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
import struct
import threading

import numpy as np
import pytest
import xarray as xr
from absl.testing import flagsaver
from matplotlib import image
from swept import SMOKE, call, contents
from train_all import compile_once

from experiments.cli import flag_table
from experiments.sweep.config.flags import TABLE
from experiments.sweep.config.resolve import resolve
from experiments.sweep.config.runs import run_config
from experiments.sweep.records import locking, run_files
from experiments.sweep.records.record import Record, Result
from experiments.sweep.trackers import tensorboard, tracker
from experiments.sweep.trackers.tracker import Tracker
from experiments.sweep.training import train

SMALL = (SMOKE, "--cell=elman", "--depth=2", "--steps=60")
TRACKED = (*SMALL, "--tracker=tensorboard")


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
  """Makes the sweeps that run in this process share compiled programs if their groups are equal."""
  monkeypatch.setattr(train, "compile_group", compile_once)


@pytest.fixture
def small_sweep(sweep_flags, tmp_path):
  """A sweep of one run of two updates, whose folder is prepared."""
  with flagsaver.flagsaver():
    sweep_flags(["sweep", SMOKE, "--cell=elman", "--truncation=4", "--steps=2", "--devices=1"])
    sweep_flags(["sweep", f"--output_dir={tmp_path / 'sweep'}"])
    found = resolve(flag_table.given(TABLE))
  locking.prepare(found)
  return found


def events(folder):
  """Returns the events of a run in TensorBoard's format."""
  from tensorboardX.proto.event_pb2 import Event

  (path,) = folder.iterdir()
  data, found = path.read_bytes(), []
  while data:  # each event has its length, a checksum, its bytes, and their checksum
    (size,) = struct.unpack("Q", data[:8])
    found.append(Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return found


def tracked_values(folder):
  """Returns the values of a tracked run as (step, value) pairs."""
  return [(event.step, value) for event in events(folder) for value in event.summary.value]


def scalars(folder):
  """Returns {metric: {step: value}} of a tracked run, and checks that no step is there twice."""
  found = {}
  for step, value in tracked_values(folder):
    if value.WhichOneof("value") == "simple_value":
      steps = found.setdefault(value.tag, {})
      assert step not in steps
      steps[step] = value.simple_value
  return found


def settings_of(folder):
  """Returns the settings of a tracked run."""
  from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

  for _, value in tracked_values(folder):
    if value.tag == "_hparams_/session_start_info":
      info = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
      return {n: getattr(v, v.WhichOneof("kind")) for n, v in info.hparams.items()}
  return None


def record(steps):
  """Returns the record of some steps of a run of two updates; norms are recorded at steps 0, 2."""
  loss = np.float32([1, 1.5, 2])[steps]
  held_out = np.float32([np.nan, np.nan, 2])[steps]
  norms = np.tile(np.float32([-1, -np.inf, -3]), (3, 1, 4))[steps][:: 2 if len(loss) > 2 else 1]
  every = loss, loss, loss, loss, np.isfinite(loss)
  return Record(*every, {"log10_grad_norm": norms}, {}, {"held_out_loss": held_out})


def begin(sweep, count):
  """Writes what a run's first steps leave in the sweep's folder; returns (run, its id)."""
  ((name, run),) = sweep.ids.items()
  run_files.start(sweep.folder, name, run_config(run, sweep.settings, None))
  run_files.append_metrics(sweep.folder, name, 0, record(slice(count)))
  return run, name


def finish(sweep):
  """Writes the complete records of the sweep's run."""
  ((name, run),) = sweep.ids.items()
  result = Result(run, record(slice(3)), None, None, 1.0)
  run_files.finish(sweep.folder, name, result, sweep.settings)


def test_tensorboard_holds_the_records_of_a_sweep(sweep_in_process, tmp_path, capsys):
  folder = tmp_path / "tracked"
  assert sweep_in_process(*TRACKED, f"--output_dir={folder}") == 0
  assert f"View the tracked runs: tensorboard --logdir={folder}" in capsys.readouterr().out
  gradients = xr.load_dataset(folder / "gradients.nc")
  for i, path in enumerate(sorted((folder / "runs").iterdir())):
    run = folder / "tensorboard" / path.name
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    expected = {}
    for line in lines:
      for name in line.keys() - {"step"}:
        expected.setdefault(name, {})[line["step"]] = pytest.approx(line[name], rel=1e-6)
    assert expected["held_out_loss"].keys() == {60}
    assert scalars(run) == expected
    config = json.loads((path / "config.json").read_text())
    settings = settings_of(run)
    assert settings["cell"] == "elman" and settings["depth"] == 2
    assert settings["truncation"] == (config["truncation"] or "full")
    histograms = [(step, v.tag, v.histo) for step, v in tracked_values(run) if v.histo.num]
    assert {(step, tag) for step, tag, _ in histograms} == {
      (step, f"{norm}/layer_{layer}")
      for step in range(0, 61, 10)
      for norm in ("log10_grad_norm", "log10_lag_norm")
      for layer in (1, 2)
    }
    for step, tag, histogram in histograms:
      norm, layer = tag.split("/layer_")
      sample = gradients[norm].isel(run=i).sel(step=step, layer=int(layer)).values
      sample = sample[np.isfinite(sample)]
      assert histogram.num == sum(histogram.bucket) == len(sample)
      assert (histogram.min, histogram.max) == (sample.min(), sample.max())

  # Nothing is left to train: only the figures are sent.
  (folder / "figures").mkdir()
  image.imsave(folder / "figures" / "training.png", np.zeros((4, 6)))
  assert sweep_in_process(*TRACKED, f"--output_dir={folder}") == 0
  ((_, figure),) = tracked_values(folder / "tensorboard" / "figures")
  assert (figure.tag, figure.image.height, figure.image.width) == ("training", 4, 6)

  plain = tmp_path / "plain"
  assert sweep_in_process(*SMALL, f"--output_dir={plain}") == 0
  assert contents(plain) == contents(folder)


def test_metrics_are_sent_as_they_come_and_a_resumed_run_replaces_its_earlier_events(small_sweep):
  folder = small_sweep.folder
  progress = []
  first = Tracker("tensorboard", small_sweep)
  on_progress = first.following(lambda *given: progress.append(given))
  run, name = begin(small_sweep, 2)
  on_progress(run, "training", 0.5, 1.0)
  first.close(stopped=True)
  assert progress == [(run, "training", 0.5, 1.0)]
  assert scalars(folder / "tensorboard" / name)["loss"] == {0: 1.0, 1: 1.5}

  second = Tracker("tensorboard", small_sweep)
  on_progress = second.following(lambda *_: None)
  on_progress(run, "resuming", 0.3, None)  # the file is still that of the first attempt
  begin(small_sweep, 2)
  on_progress(run, "training", 0.6, 1.0)
  run_files.append_metrics(folder, name, 2, record(slice(2, 3)))
  on_progress(run, "training", 1.0, 1.0)  # the gradients are not there yet
  finish(small_sweep)
  on_progress(run, "training", 1.0, None)
  second.close()
  found = scalars(folder / "tensorboard" / name)
  assert found["loss"].keys() == {0, 1, 2}
  assert found["held_out_loss"] == {2: 2.0}
  histograms = [(step, v.histo) for step, v in tracked_values(folder / "tensorboard" / name)]
  # Of the 12 norms at each step, a third is -inf, which no histogram can show.
  assert [(step, histo.num) for step, histo in histograms if histo.num] == [(0, 8), (2, 8)]


def test_an_old_record_is_not_sent_while_its_run_is_trained_again(small_sweep):
  run, name = begin(small_sweep, 3)
  finish(small_sweep)
  tracked = Tracker("tensorboard", small_sweep)
  on_progress = tracked.following(lambda *_: None)
  on_progress(run, "training", 0.5, 1.0)
  tracked.close()
  assert not (small_sweep.folder / "tensorboard").exists()

  tracked = Tracker("tensorboard", small_sweep)
  tracked.following(lambda *_: None)(run, "training", 1.0, None)  # as a worker's run is reported
  tracked.close()
  assert scalars(small_sweep.folder / "tensorboard" / name)["loss"].keys() == {0, 1, 2}


def test_a_tracker_that_cannot_write_is_one_warning(sweep_in_process, tmp_path, capsys):
  folder = tmp_path / "sweep"
  assert sweep_in_process(*SMALL, f"--output_dir={folder}") == 0
  before = contents(folder)
  (folder / "tensorboard").write_text("a file in place of the folder")
  for status in folder.glob("runs/*/status.json"):
    status.unlink()
  capsys.readouterr()
  assert sweep_in_process(*TRACKED, f"--output_dir={folder}") == 0
  out, err = capsys.readouterr()
  assert err.count("--tracker=tensorboard failed; the sweep continues without it") == 1
  assert err.count("\n") == 1
  assert "Runs: 2 finished" in out and "View the tracked runs" not in out
  assert contents(folder) == before


def test_an_error_in_the_middle_ends_tracking_alone(
  sweep_in_process, tmp_path, capsys, monkeypatch
):
  calls = []

  def scalars(self, step, values):
    calls.append(step)
    if len(calls) == 30:
      raise SystemExit("the quota is used up")

  monkeypatch.setattr(tensorboard.TensorBoardRun, "scalars", scalars)
  assert sweep_in_process(*TRACKED, f"--output_dir={tmp_path}") == 0
  out, err = capsys.readouterr()
  assert len(calls) == 30
  assert err.count("\n") == 1 and "SystemExit: the quota is used up" in err
  assert "Runs: 2 finished" in out


def test_a_tracker_that_does_not_respond_is_left(small_sweep, capsys, monkeypatch):
  forever = threading.Event()
  monkeypatch.setattr(tensorboard.TensorBoardRun, "scalars", lambda *_: forever.wait())
  monkeypatch.setattr(tracker, "_PATIENCE", 0.2)
  monkeypatch.setattr(tracker, "_UNNOTICED", 0.1)
  tracked = Tracker("tensorboard", small_sweep)
  run, _ = begin(small_sweep, 2)
  tracked.following(lambda *_: None)(run, "training", 0.5, 1.0)
  tracked.close()
  forever.set()
  message = capsys.readouterr().err
  assert "Waiting for --tracker=tensorboard" in message
  assert "--tracker=tensorboard did not respond for 0.2 s" in message


def test_a_tracker_that_is_not_installed_is_refused(sweep_here, tmp_path, capsys, monkeypatch):
  missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
  if not missing:
    pytest.skip("all trackers are installed")
  # W&B leaves such a folder where it runs, which Python takes for a package.
  (tmp_path / missing[0]).mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  folder = tmp_path / "sweep"
  assert sweep_here(*SMALL, f"--tracker={missing[0]}", f"--output_dir={folder}") == 2
  message = f"--tracker={missing[0]} needs the package {missing[0]}; in the clone: pip install -e "
  assert message + f"'.[{missing[0]}]'." in capsys.readouterr().err
  assert not folder.exists()


def test_wandb_writes_offline_runs(tmp_path, monkeypatch):
  pytest.importorskip("wandb", reason="wandb is not installed")
  monkeypatch.setenv("WANDB_MODE", "offline")
  for _ in range(2):  # the second time, all runs are trained again
    result = call(*SMALL, "--tracker=wandb", f"--output_dir={tmp_path}")
    assert result.returncode == 0 and not result.stderr, result.stderr
    for status in tmp_path.glob("runs/*/status.json"):
      status.unlink()
  files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
  names = [path.name for path in (tmp_path / "runs").iterdir()]
  assert len(files) == len(names) + 1  # the figures are a run, too
  data = b"".join(path.read_bytes() for path in files)
  assert all(name.encode() in data for name in ("figures", "log10_lag_norm/layer_2", *names))


def test_trackio_holds_each_step_once(tmp_path, monkeypatch):
  pytest.importorskip("trackio", reason="trackio is not installed")
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
  folder = tmp_path / "sweep"
  for _ in range(2):  # the second time, all runs are trained again
    result = call(*SMALL, "--tracker=trackio", f"--output_dir={folder}")
    assert result.returncode == 0, result.stderr
    for status in folder.glob("runs/*/status.json"):
      status.unlink()
  names = sorted(path.name for path in (folder / "runs").iterdir())
  (database,) = (tmp_path / "trackio").glob("*.db")
  with contextlib.closing(sqlite3.connect(database)) as connection:
    rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
  losses = [(name, step) for name, step, metrics in rows if '"loss"' in str(metrics)]
  assert sorted(losses) == [(name, step) for name in names for step in range(61)]
  assert any("log10_lag_norm/layer_2" in str(metrics) for *_, metrics in rows)
  assert any(name == "figures" for name, *_ in rows)
