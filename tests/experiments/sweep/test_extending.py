"""Tests of sweeps that extend, narrow or unite folders, and of the axes that a larger sweep has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from swept import contents, sweep
from train_all import compile_once

from experiments import merge
from experiments.sweep.records import gathered
from experiments.sweep.training import train


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
  """Makes the sweeps that run in this process share compiled programs if their groups are equal."""
  monkeypatch.setattr(train, "compile_group", compile_once)


# A sweep of one run, and what a larger sweep has in addition.
ONE = ("--task=adding", "--cell=elman", "--hidden_size=4", "--sequence_length=8", "--batch_size=2")
ONE += ("--steps=60", "--log_every=20", "--evaluate_every=25", "--measures=none")
MORE = ("--seed=0..1", "--steps=60,110", "--learning_rate=0.002,0.01")


@pytest.fixture(scope="module")
def larger(tmp_path_factory, sweep_flags) -> Path:
  """The folder of a sweep of eight runs, trained at once."""
  folder = tmp_path_factory.mktemp("sweep") / "larger"
  sweep(*ONE, *MORE, f"--output_dir={folder}")
  return folder


def test_an_extended_sweep_equals_the_larger_sweep_trained_at_once(
  larger, sweep_in_process, tmp_path, capsys
):
  given = f"--output_dir={tmp_path}"
  assert sweep_in_process(*ONE, given) == 0
  capsys.readouterr()
  assert sweep_in_process(*ONE, *MORE, given) == 0
  said = capsys.readouterr().out
  assert f"{tmp_path} holds a sweep of 1 runs; this one adds 7.\n" in said
  assert "1 of 8 runs already done" in said
  assert contents(tmp_path) == contents(larger)


def test_runs_that_are_left_out_keep_their_records(larger, sweep_in_process, tmp_path, capsys):
  folder = tmp_path / "copy"
  shutil.copytree(larger, folder)
  (folder / "notes.txt").write_text("mine")
  given = (*ONE, "--steps=110", "--seed=0..1", f"--output_dir={folder}")
  assert sweep_in_process(*given) == 0
  said = capsys.readouterr().out
  assert "this one adds 0 and leaves out 6, whose records stay in the folder.\n" in said
  gradients, metrics, _ = gathered.read(folder)
  assert gradients["steps"].values.tolist() == [110, 110] and metrics.sizes["update"] == 111
  assert len((folder / "summary.csv").read_text().splitlines()) == 3
  assert sweep_in_process(*ONE, *MORE, f"--output_dir={folder}") == 0
  assert "8 of 8 runs already done" in capsys.readouterr().out
  assert contents(folder) == contents(larger)


def test_sweeps_that_share_their_settings_are_united(
  larger, sweep_in_process, program_here, tmp_path, capsys
):
  parts = [tmp_path / "seed0", tmp_path / "seed1"]
  for i, folder in enumerate(parts):
    assert sweep_in_process(*ONE, *MORE, f"--seed={i}", f"--output_dir={folder}") == 0
  united = tmp_path / "united"
  assert program_here(merge, *parts, f"--output_dir={united}") == 0
  assert contents(united) == contents(larger)
  about = json.loads((united / "sweep.json").read_text())
  assert about["configuration"]["seed"] == [0, 1] and about["configuration"]["design"] == "grid"

  # The sixteen runs of lstm with seed 2 would be missing from a grid.
  other = tmp_path / "other"
  assert sweep_in_process(*ONE, "--cell=lstm", "--seed=2", f"--output_dir={other}") == 0
  assert program_here(merge, united, other) == 0
  about = json.loads((united / "sweep.json").read_text())
  assert about["configuration"]["design"] == "united" and len(about["runs"]) == 9
  assert gathered.read(united)[0].sizes["run"] == 9
  assert (united / "sweep.flags").read_text().startswith("# Several sweeps were united")
  capsys.readouterr()
  assert sweep_in_process(*ONE, "--log_every=30", f"--output_dir={tmp_path / 'coarse'}") == 0
  assert program_here(merge, united, tmp_path / "coarse") == 2
  assert "share their settings" in capsys.readouterr().err


def test_losses_on_held_out_data_are_recorded_and_summarized(larger):
  _, metrics, _ = gathered.read(larger)
  loss = metrics["held_out_loss"].values
  for row, last in zip(loss, metrics["steps"].values, strict=True):
    evaluated = np.flatnonzero(~np.isnan(row))
    assert evaluated.tolist() == sorted({*range(0, last + 1, 25), last})
  lines = (larger / "summary.csv").read_text().splitlines()
  column = lines[0].split(",").index("held_out_loss")
  assert [float(line.split(",")[column]) for line in lines[1:]] == [
    pytest.approx(row[last]) for row, last in zip(loss, metrics["steps"].values, strict=True)
  ]


def test_wrappers_and_tasks_are_axes(sweep_in_process, tmp_path):
  given = ("--design=one_at_a_time", "--depth=2", "--layer_norm", "--residual=false,true")
  given += ("--dropout=0,0.5", "--zoneout=0,0.5", "--task=adding,temporal_order", "--steps=3")
  given += ("--sequence_length=12", "--test_sequence_length=2T", f"--output_dir={tmp_path}")
  assert sweep_in_process(*ONE, *given) == 0
  gradients, metrics, _ = gathered.read(tmp_path)
  assert gradients.sizes["run"] == 5 and gradients["layer_norm"].values.all()
  norms = gradients["log10_grad_norm"].values[:4, 0].reshape(4, -1)
  # At step 0, dropout and residual connections change the norms. Zoneout does, too.
  assert len({row.tobytes() for row in norms}) == 4
  last = metrics.isel(run=4)
  assert last["task"] == "temporal_order" and 0 <= last["held_out_accuracy"][3] <= 1
  assert {"held_out_loss_24", "held_out_accuracy_24"} <= {*metrics}
  assert np.isnan(metrics["held_out_accuracy"][:4]).all()
  assert metrics.attrs["task"] == "adding, temporal_order"
  assert metrics["baseline"].values.tolist() == [1 / 6] * 4 + [np.log(4)]
