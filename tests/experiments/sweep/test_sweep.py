"""Tests of the sweep command as a user starts it; as a real process only where that matters."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from absl.testing import flagsaver
from swept import FLAGFILES, ROOT, SMOKE, call, contents, sweep
from train_all import compile_once

from experiments import merge, plot
from experiments.runtime import exits
from experiments.sweep.records import gathered, sweep_folder
from experiments.sweep.records.record import nonfinite_from_json, nonfinite_text
from experiments.sweep.training import train

# With these flags norms are recorded at steps 0, 10, 20 and 30, measures at steps 0, 15 and 30.
SMALL = (SMOKE, "--measure_every=15")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("sweep") / "smoke"
  sweep(*SMALL, f"--output_dir={folder}", "--devices=2")
  return folder


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
  """Makes the sweeps that run in this process share compiled programs if their groups are equal."""
  monkeypatch.setattr(train, "compile_group", compile_once)


def test_the_folder_holds_records_and_figures(smoke):
  top = {p.name for p in smoke.iterdir()}
  files = {"sweep.json", "sweep.flags", "runs", "summary.csv", "gradients.nc", "figures"}
  assert top == {*files, ".lock"}
  figures = {"gradient_decay", "gradient_by_truncation", "depth_by_time", "training", "lag"}
  assert {p.name for p in (smoke / "figures").iterdir()} == {
    f"{name}.{kind}" for name in figures for kind in ("png", "svg")
  }
  about = json.loads((smoke / "sweep.json").read_text())
  assert about["configuration"]["truncation"] == [4, None]
  assert about["versions"].keys() >= {"jax", "flax", "optax", "python"}
  assert len(about["devices"]) == 2
  assert len(about["git"]["commit"]) == 40
  for name in about["runs"]:
    run = smoke / "runs" / name
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(31))
    assert name.startswith(json.loads((run / "config.json").read_text())["cell"])


def test_recorded_gradients_have_labeled_coordinates(smoke):
  gradients = xr.load_dataset(smoke / "gradients.nc")
  assert dict(gradients.sizes) == {"run": 4, "step": 5, "layer": 1, "time": 12, "lag": 12}
  assert list(gradients["step"]) == [0, 10, 15, 20, 30]
  assert list(gradients["cell"]) == ["elman", "elman", "lstm", "lstm"]
  assert list(gradients["truncation"]) == [4, np.inf, 4, np.inf]
  measured = gradients.sel(step=[0, 15, 30])
  hidden, cell = measured["log10_lag_norm"], measured["log10_lag_norm_cell"]
  assert np.isfinite(hidden).all()
  assert np.isnan(cell[:2]).all()  # an Elman network has no cell state
  assert np.isfinite(cell[2:, ..., 1:]).all()
  # The loss is at the last of 12 steps. Truncation 4 cuts the gradient before steps 4 and 8
  # (counted from 0), so that it reaches the last 4 steps only.
  norms = gradients["log10_grad_norm"]
  assert (norms[[0, 2], ..., :8] == -np.inf).all()
  assert np.isfinite(norms[[0, 2], ..., 8:]).all()
  assert np.isfinite(norms[[1, 3]]).all()


def test_measures_are_computed_at_their_own_steps(smoke):
  gradients = xr.load_dataset(smoke / "gradients.nc")
  assert np.isfinite(gradients["log10_grad_norm"][[1, 3]]).all()
  unmeasured = np.isnan(gradients["log10_lag_norm"]).all(["run", "layer", "lag"])
  assert list(unmeasured) == [False, True, False, True, False]


def test_lag_profile_is_the_gradient_norm_where_the_loss_is_at_the_last_step(smoke):
  gradients = xr.load_dataset(smoke / "gradients.nc")
  full = gradients.isel(run=[1, 3]).sel(step=[0, 15, 30])
  np.testing.assert_allclose(
    full["log10_grad_norm"].values[..., ::-1], full["log10_lag_norm"].values, atol=1e-5
  )


def test_the_written_flagfile_gives_the_same_records_on_another_number_of_devices(
  smoke, sweep_in_process, tmp_path
):
  flags = (f"--flagfile={smoke / 'sweep.flags'}", f"--output_dir={tmp_path}", "--devices=1")
  assert sweep_in_process(*flags) == 0
  assert contents(tmp_path) == contents(smoke)


def test_shared_batches_and_devices_change_a_sweep_by_rounding_alone(
  smoke, sweep_in_process, tmp_path
):
  flags = ("--cell=lstm", "--devices=2", "--data_parallel=2", "--runs_per_device=2")
  assert sweep_in_process(*SMALL, *flags, f"--output_dir={tmp_path}") == 0
  about = json.loads((tmp_path / "sweep.json").read_text())
  assert (about["data_parallel"], about["runs_per_device"]) == (2, 2)
  found = xr.load_dataset(tmp_path / "gradients.nc")
  expected = xr.load_dataset(smoke / "gradients.nc").isel(run=slice(2, 4))
  xr.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_rematerialization_changes_a_sweep_by_rounding_alone(smoke, sweep_in_process, tmp_path):
  assert sweep_in_process(*SMALL, "--remat=sqrt", f"--output_dir={tmp_path}") == 0
  abouts = [json.loads((folder / "sweep.json").read_text()) for folder in (smoke, tmp_path)]
  assert [about["remat"] for about in abouts] == ["none", "sqrt"]
  assert abouts[0]["runs"] == abouts[1]["runs"]
  found, expected = (xr.load_dataset(folder / "gradients.nc") for folder in (tmp_path, smoke))
  xr.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_figures_come_from_records_alone(smoke, flags_of, monkeypatch):
  before = {p: p.read_bytes() for p in (smoke / "figures").iterdir()}
  for path in before:
    path.unlink()
  monkeypatch.delitem(sys.modules, "experiments.plot")
  monkeypatch.setattr(sys, "argv", ["plot", str(smoke)])
  with flags_of(None), flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
    runpy.run_module("experiments.plot", run_name="__main__")
  assert not ended.value.code
  assert {p: p.read_bytes() for p in (smoke / "figures").iterdir()} == before


def test_dry_run_of_gradient_decay_counts_runs_and_writes_nothing(sweep_here, tmp_path, capsys):
  flagfile = f"--flagfile={FLAGFILES / 'gradient_decay.flags'}"
  assert sweep_here(flagfile, "--dry_run", f"--output_dir={tmp_path / 'out'}") == 0
  assert "36 runs, 6 groups, 6 compilations" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


def test_diverging_runs_are_recorded_as_results(sweep_in_process, tmp_path, capsys):
  flags = (
    "--task=adding --recurrent_gain=1,2 --clip_norm=none,1.0 --optimizer=sgd --learning_rate=0.2 "
    "--sequence_length=60 --hidden_size=32 --batch_size=8 --steps=60 --log_every=5 --seed=1 "
    "--measures=none"
  )
  assert sweep_in_process(*flags.split(), f"--output_dir={tmp_path}") == 0
  said = capsys.readouterr().out
  gradients = xr.load_dataset(tmp_path / "gradients.nc")
  diverged = gradients["status"] == "diverged"
  assert diverged.any() and not diverged.all()
  assert (gradients["clip_norm"][diverged] == np.inf).all()
  for run in gradients["run"][diverged]:
    step = int(gradients["diverged_step"].sel(run=run))
    assert f"diverged at step {step}: {run.item()}" in said
    lines = (tmp_path / "runs" / run.item() / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == step
    assert not (np.isfinite(last["loss"]) and np.isfinite(last["grad_norm"]))
    later = gradients["log10_grad_norm"].sel(run=run, step=slice(step + 1, None))
    assert np.isnan(later).all()
    state = json.loads((tmp_path / "runs" / run.item() / "status.json").read_text())
    place = nonfinite_from_json(state["bad_place"])
    assert state["bad_place"]["step"] == step and place.overflow
    assert f"{run.item()}: {nonfinite_text(place)}\n" in said
  assert len(list(tmp_path.glob("runs/*/replay.npz"))) == diverged.sum()
  again = call(tmp_path / "runs" / run.item() / "replay.npz", module="experiments.replay")
  assert again.returncode == 0, again.stderr
  assert again.stdout == f"step {step}: {nonfinite_text(place)}\nreproduced.\n"


def cut_short(path: Path) -> None:
  path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_a_run_with_a_damaged_record_is_trained_again(
  smoke, sweep_in_process, tmp_path, damage, capsys
):
  folder = tmp_path / "copy"
  shutil.copytree(smoke, folder)
  names = ("config.json", "metrics.jsonl", "gradients.nc", "status.json")
  for run, name in zip(sorted((folder / "runs").iterdir()), names, strict=True):
    damage(run / name)
  assert sweep_in_process(*SMALL, f"--output_dir={folder}", "--devices=1") == 0
  assert "already done" not in capsys.readouterr().out
  assert contents(folder) == contents(smoke)


@pytest.mark.parametrize("damaged", [b"[]", b"{}", b'{"configuration": null}', b"\xff"])
def test_readers_report_a_damaged_sweep(tmp_path, damaged):
  (tmp_path / "sweep.json").write_bytes(damaged)
  for read in (lambda path: sweep_folder.check_folder(path, {}, False), gathered.read):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'sweep.json'} is damaged")):
      read(tmp_path)


def test_commands_report_a_damaged_sweep(smoke, sweep_here, program_here, tmp_path, capsys):
  folder = tmp_path / "copy"
  shutil.copytree(smoke, folder)
  (folder / "sweep.json").write_bytes(b"")
  for status in (sweep_here(*SMALL, f"--output_dir={folder}"), program_here(plot, folder)):
    assert status == exits.USAGE_ERROR
  errors = capsys.readouterr().err.splitlines()
  assert len(errors) == 2
  assert all(f"{folder / 'sweep.json'} is damaged" in error for error in errors)


def test_overwriting_a_sweep_with_itself_keeps_its_records(smoke, sweep_in_process, capsys):
  before = contents(smoke)
  assert sweep_in_process(*SMALL, f"--output_dir={smoke}", "--overwrite") == 0
  assert "4 of 4 runs already done; their records are kept" in capsys.readouterr().out
  assert contents(smoke) == before


def test_files_of_the_user_in_the_folder_are_kept(smoke, sweep_in_process, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(smoke, folder)
  (folder / "notes.txt").write_text("mine")
  assert sweep_in_process(*SMALL, f"--output_dir={folder}") == 0
  given = ("--log_every=30", "--cell=elman", f"--output_dir={folder}", "--overwrite", "--devices=1")
  assert sweep_in_process(*SMALL, *given) == 0
  assert (folder / "notes.txt").read_text() == "mine"
  assert len(list((folder / "runs").iterdir())) == 2


def test_resuming_with_other_versions_is_recorded(smoke, sweep_in_process, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(smoke, folder)
  about = json.loads((folder / "sweep.json").read_text())
  about.pop("continued", None)
  about["versions"]["jax"] = "0.1"
  (folder / "sweep.json").write_text(json.dumps(about))
  for _ in range(2):
    assert sweep_in_process(*SMALL, f"--output_dir={folder}") == 0
    (again,) = json.loads((folder / "sweep.json").read_text())["continued"]
    assert again["versions"]["jax"] != "0.1"


def test_a_closed_pipe_is_not_an_error():
  process = subprocess.run(
    f"{sys.executable} -m experiments.sweep {SMOKE} --dry_run | head -1",
    cwd=ROOT,
    shell=True,
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.stderr == ""


def test_a_corpus_of_the_user_is_trained_on_and_identified(sweep_in_process, tmp_path, capsys):
  text = tmp_path / "text.txt"
  text.write_bytes(b"the quick brown fox jumps over the lazy dog\n" * 50)
  flags = "--cell=elman --hidden_size=8 --sequence_length=16 --batch_size=4 --steps=5"
  flags += " --measures=none"
  given = (*flags.split(), f"--corpus={text}", f"--output_dir={tmp_path / 'out'}")
  assert sweep_in_process(*given) == 0
  corpus = json.loads((tmp_path / "out" / "sweep.json").read_text())["corpus"]
  assert corpus["characters"] == 44 * 50
  assert corpus["vocabulary_size"] == 28
  text.write_bytes(b"another text, of which there is more than a window's worth\n" * 50)
  assert sweep_in_process(*given) == 2
  assert "holds another sweep (its corpus_sha256 is" in capsys.readouterr().err


def sweep_of_text(text, folder, *flags):
  """Returns the flags of a sweep of two small runs on a text."""
  small = "--cell=elman --hidden_size=8 --sequence_length=16 --batch_size=4 --steps=5"
  small += " --measures=none --seed=0,1"
  return *small.split(), f"--corpus={text}", f"--output_dir={folder}", *flags


def copies(folder, count):
  """Writes a text to `count` files with different folders and names; returns the files."""
  files = [folder / f"home{i}" / f"text{i}.txt" for i in range(count)]
  for file in files:
    file.parent.mkdir()
    file.write_bytes(b"the quick brown fox jumps over the lazy dog\n" * 50)
  return files


def records(folder):
  """Returns the contents that must be equal; sweep.flags holds the path of the text."""
  return {name: data for name, data in contents(folder).items() if name != "sweep.flags"}


def test_shards_merge_if_their_texts_are_equal_wherever_they_are(
  sweep_in_process, program_here, tmp_path
):
  whole, *shards = (tmp_path / name for name in ("whole", "shard0", "shard1"))
  texts = copies(tmp_path, 3)
  assert sweep_in_process(*sweep_of_text(texts[0], whole)) == 0
  for i, (text, folder) in enumerate(zip(texts[1:], shards, strict=True)):
    flags = "--num_shards=2", f"--shard_index={i}"
    assert sweep_in_process(*sweep_of_text(text, folder, *flags)) == 0
  assert program_here(merge, *shards) == 0
  assert records(shards[0]) == records(whole)


def test_a_sweep_resumes_after_its_text_has_moved(sweep_in_process, tmp_path, capsys):
  text, moved = copies(tmp_path, 2)
  folder = tmp_path / "out"
  assert sweep_in_process(*sweep_of_text(text, folder)) == 0
  before = records(folder)
  text.unlink()
  shutil.rmtree(min((folder / "runs").iterdir()))
  assert sweep_in_process(*sweep_of_text(moved, folder)) == 0
  assert "1 of 2 runs already done" in capsys.readouterr().out
  assert records(folder) == before
  assert f"--corpus={moved}\n" in (folder / "sweep.flags").read_text()


def test_another_sweep_is_not_overwritten(smoke, sweep_here, capsys):
  before = contents(smoke)
  assert sweep_here(*SMALL, "--log_every=7", f"--output_dir={smoke}") == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "its log_every is 10, not 7" in error
  assert contents(smoke) == before


def test_bad_input_of_a_real_process_gives_no_traceback(tmp_path):
  result = call("--corpus=missing.txt", f"--output_dir={tmp_path / 'out'}")
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1
  assert not list(tmp_path.iterdir())
