"""Tests of sweeps on a user's data: records, resumption, merging, changed data, and labels."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import numpy as np
import pytest

import experiments
from experiments import merge
from experiments.sweep.training import divergence, replay_file

T = 6
SMALL = (
  f"--task=data_file --sequence_length={T} --batch_size=4 --hidden_size=4 --steps=4 --log_every=2 "
  "--measures=none --seed=0,1"
)


@pytest.fixture
def data(tmp_path):
  """The path of a data file, with sequences of different lengths."""
  file = tmp_path / "data.npz"
  random = np.random.default_rng(0)
  xs = random.normal(size=(30, T, 2))
  np.savez(file, xs=xs, targets=(xs[..., 0] > 0).astype(int), lengths=random.integers(2, T + 1, 30))
  return file


def given(file, folder):
  return *SMALL.split(), f"--data_file={file}", f"--output_dir={folder}"


def contents(folder):
  """Returns the contents that do not depend on where the data file is."""
  names = ("summary.csv", "gradients.nc", "runs/*/metrics.jsonl", "runs/*/config.json")
  return {p.relative_to(folder): p.read_bytes() for name in names for p in folder.glob(name)}


def test_a_sweep_records_its_data_and_resumes_with_them_alone(
  sweep_in_process, data, tmp_path, capsys
):
  folder = tmp_path / "out"
  assert sweep_in_process(*given(data, folder)) == 0
  about = json.loads((folder / "sweep.json").read_text())
  sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
  assert about["configuration"]["data_file"] == f"sha256:{sha256}"
  found = {name: about["data_file"][name] for name in ("name", "sha256", "sequences", "targets")}
  expected = {"name": str(data), "sha256": sha256, "sequences": 27, "targets": "every step"}
  assert found == expected
  assert f"--data_file={data}\n" in (folder / "sweep.flags").read_text()
  (task,) = about["tasks"]
  assert task["loss_unit"] == "nats per step" and 0.6 < task["baseline"] < 0.7
  run = min((folder / "runs").iterdir())
  assert json.loads((run / "config.json").read_text())["data_file"] == f"sha256:{sha256}"
  last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
  assert 0 <= last["held_out_accuracy"] <= 1
  assert experiments.open_sweep(folder).attrs["data_file_sha256"] == sha256

  # The sweep resumes after the file has moved, but not after it has changed.
  before = contents(folder)
  moved = data.rename(tmp_path / "moved.npz")
  shutil.rmtree(run)
  assert (
    sweep_in_process(
      f"--flagfile={folder / 'sweep.flags'}", f"--data_file={moved}", f"--output_dir={folder}"
    )
    == 0
  )
  assert "1 of 2 runs already done" in capsys.readouterr().out
  assert contents(folder) == before
  assert f"--data_file={moved}\n" in (folder / "sweep.flags").read_text()
  arrays = dict(np.load(moved))
  np.savez(moved, **{**arrays, "xs": arrays["xs"] + 1})
  assert sweep_in_process(*given(moved, folder)) == 2
  error = capsys.readouterr().err
  assert f"holds another sweep (its data_file is 'sha256:{sha256}', not 'sha256:" in error
  assert contents(folder) == before


def test_sweeps_are_united_wherever_their_data_are(sweep_in_process, program_here, data, tmp_path):
  one, other = tmp_path / "one", tmp_path / "other"
  assert sweep_in_process(*given(data, one), "--seed=0") == 0
  copy = shutil.copy(data, tmp_path / "copy.npz")
  assert sweep_in_process(*given(copy, other), "--seed=1") == 0
  assert program_here(merge, one, other) == 0
  about = json.loads((one / "sweep.json").read_text())
  assert about["data_file"]["name"] == str(data) and len(about["runs"]) == 2
  assert f"--data_file={data}\n" in (one / "sweep.flags").read_text()


def test_a_sweep_learns_the_next_labels_and_records_a_run_that_diverges(sweep_in_process, tmp_path):
  # Each of four notes sounds at every fourth step, from a random one on: the next notes follow from
  # the present ones, and each sounds in a quarter of the steps.
  file, folder = tmp_path / "notes.npz", tmp_path / "out"
  starts = np.random.default_rng(0).integers(0, 4, (30, 4))
  roll = (np.arange(T + 1)[:, None] + starts[:, None]) % 4 == 0
  np.savez(file, xs=roll[:, :-1], targets=roll[:, 1:], lengths=np.tile([T, 4], 15))
  flags = ["--steps=60", "--log_every=30", "--hidden_size=16", "--seed=0", "--clip_norm=none"]
  assert sweep_in_process(*given(file, folder), *flags, "--learning_rate=0.05,3e38") == 0
  (task,) = json.loads((folder / "sweep.json").read_text())["tasks"]
  assert task["loss_unit"] == "nats per step"
  quarter = math.log(4) - 0.75 * math.log(3)  # the entropy of a label that is True at every fourth
  assert task["baseline"] == pytest.approx(4 * quarter, rel=0.05)

  found = {
    json.loads((run / "config.json").read_text())["learning_rate"]: run
    for run in (folder / "runs").iterdir()
  }
  learned = json.loads((found[0.05] / "metrics.jsonl").read_text().splitlines()[-1])
  assert learned["held_out_loss"] < 0.8 * task["baseline"]
  assert "held_out_accuracy" not in learned
  diverged, nonfinite, about = replay_file.load(found[3e38] / "replay.npz")
  assert about["loss"] == "binary_cross_entropy" and diverged.output_size == 4
  assert diverged.snapshot.batch.targets.dtype == bool
  assert nonfinite is not None and divergence.locate(diverged) == nonfinite
