"""A sweep's records are gathered into one file, but are read back from the runs' own files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from configured import make_run, make_settings

from experiments.runtime import files, memory
from experiments.sweep.config.runs import run_config
from experiments.sweep.records import gathered, run_files
from experiments.sweep.records.record import Record, Result

SETTINGS = make_settings(1, "", 1, match_params=18)
AXES = {"steps": [1], "task": ["adding"]}
TASKS = [{"task": "adding", "sequence_length": 4, "loss_unit": "", "baseline": 0.1}]
SIZES = {"sequence_length": 4, "batch_size": 2, "steps": 1, "optimizer": "sgd"}
RELU = (("activation", "relu"), ("recurrent_kernel", "identity"))
RUNS = {
  "a": make_run("elman", clip_norm=None, options=RELU, hidden_size=3, **SIZES),
  "b": make_run("lru", truncation=2, recurrent_gain=None, hidden_size=4, flossing_steps=3, **SIZES),
  "c": make_run(
    "lstm", 2, 2, recurrent_gain=0.5, forget_bias=2.0, hidden_size=1, layer_norm=True, **SIZES
  ),
}


@pytest.fixture
def folder(tmp_path):
  """A sweep's folder with the records of three runs, without measures."""
  about = {"configuration": AXES, "tasks": TASKS, "runs": list(RUNS)}
  files.write_json(tmp_path / "sweep.json", about)
  zeros = np.zeros(2, np.float32)
  norms = {"log10_grad_norm": np.zeros((2, 1, 4), np.float32)}
  held_out = {"held_out_loss": np.array([np.nan, 0.25], np.float32)}
  record = Record(zeros, zeros, zeros, zeros, zeros == 0, norms, {}, held_out)
  for name, run in RUNS.items():
    run_files.start(tmp_path, name, run_config(run, SETTINGS, None))
    run_files.append_metrics(tmp_path, name, 0, record)
    run_files.finish(tmp_path, name, Result(run, record, None, None, 1.0), SETTINGS)
  return tmp_path


def test_options_and_widths_are_coordinates_of_the_runs(folder):
  gathered.write(folder, run_files.statuses(folder, RUNS))
  for data in gathered.read(folder)[:2]:
    words = ["activation=relu, recurrent_kernel=identity", "", ""]
    assert data["options"].dims == ("run",) and data["options"].values.tolist() == words
    assert data["hidden_size"].values.tolist() == [3, 4, 1]
    np.testing.assert_array_equal(data["recurrent_gain"], [1.0, np.nan, 0.5])
    np.testing.assert_array_equal(data["forget_bias"], [np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(data["flossing_exponents"], [np.nan, 1, np.nan])
  lines = (folder / "summary.csv").read_text().splitlines()
  assert (
    "cell,depth,hidden_size,layer_norm,residual,dropout,zoneout,task,sequence_length" in lines[0]
  )
  assert "recurrent_gain,forget_bias,options,status" in lines[0]
  assert '1.0,nan,"activation=relu, recurrent_kernel=identity",finished' in lines[1]
  assert "nan,nan,,finished" in lines[2] and "lru,1,4,False" in lines[2]
  assert "lstm,2,1,True,False,0.0,0.0,adding,4,2,1,sgd,float32,none,2.0" in lines[3]
  assert lines[0].split(",")[-7:-5] == ["held_out_loss", "baseline"]
  assert lines[3].split(",")[-7:-5] == ["0.25", "0.1"]


def test_records_of_versions_without_options_and_checksums_are_read(folder):
  for name in RUNS:
    path = folder / "runs" / name / "config.json"
    saved = files.read_json(path)
    del saved["options"], saved["match_params"]
    files.write_json(path, saved)
    status = files.read_json(path.with_name("status.json"))
    del status["sha256"]
    names = ("config.json", "metrics.jsonl", "gradients.nc")
    status["bytes"] = {name: path.with_name(name).stat().st_size for name in names}
    files.write_json(path.with_name("status.json"), status)
  _, metrics, _ = gathered.read(folder)
  assert metrics["options"].values.tolist() == ["", "", ""]
  assert metrics["hidden_size"].values.tolist() == [3, 4, 1]


def test_the_gathered_file_is_compressed_and_equal_for_equal_records(folder):
  path = folder / "gradients.nc"
  written, _ = gathered.write(folder, run_files.statuses(folder, RUNS))
  first = path.read_bytes()
  assert first.startswith(b"\x89HDF")
  assert xr.load_dataset(path).identical(written)
  assert gathered.read(folder)[0].identical(written)
  gathered.write(folder, run_files.statuses(folder, RUNS))
  assert path.read_bytes() == first


def test_a_gathered_file_of_an_older_version_is_read(folder):
  written, _ = gathered.write(folder, run_files.statuses(folder, RUNS))
  written.to_netcdf(folder / "gradients.nc", engine="scipy")
  assert (folder / "gradients.nc").read_bytes().startswith(b"CDF")
  assert xr.load_dataset(folder / "gradients.nc").identical(written)


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    ("metrics.jsonl", b"[" * 10**6, "at most 2048 bytes, got 1000000"),
    ("metrics.jsonl", b'{"step": 99999999999}', "metrics.jsonl is damaged"),
    ("gradients.nc", b"\x89HDF\r\n\x1a\n" + bytes(99), "is not a valid NetCDF 3 file"),
    ("config.json", {"seed": 2**40}, "config.json is damaged"),
    ("config.json", {"truncation": 10**400}, "config.json is damaged"),
    ("config.json", {"depth": [1]}, "config.json is damaged"),
    ("config.json", {"cell": ["elman"]}, "config.json is damaged"),
    ("config.json", {"cell": "\x1b[31m"}, "config.json is damaged"),
    ("config.json", {"options": [["a", "\x1b"]]}, "config.json is damaged"),
    ("status.json", {"status": ["finished"]}, "run a in .* is unfinished or damaged"),
    ("status.json", {"status": "failed"}, "run a in .* is unfinished or damaged"),
    ("status.json", {"status": "failed", "reason": 1}, "run a in .* is unfinished or damaged"),
    ("status.json", {"status": "diverged"}, "run a in .* is unfinished or damaged"),
    ("status.json", {"bad_place": {"x": 1}}, "run a in .* is unfinished or damaged"),
    ("../../sweep.json", {"configuration": [1]}, "sweep.json is damaged"),
    ("config.json", {"task": "\x1b"}, "config.json is damaged"),
    ("config.json", {"steps": 10**4000}, "config.json is damaged"),
    ("config.json", {"steps": 2**31 - 1}, "must fit into this machine's"),
    ("../../sweep.json", {"tasks": [{**TASKS[0], "loss_unit": "\x1b"}]}, "sweep.json is damaged"),
    ("../../sweep.json", {"tasks": []}, "sweep.json is damaged"),
  ],
)
def test_a_hostile_record_with_a_valid_checksum_is_rejected(
  name, content, says, folder, monkeypatch
):
  monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**16)  # 4 GiB of memory
  run = folder / "runs" / "a"
  if isinstance(content, dict):
    content = json.dumps({**files.read_json(run / name), **content}).encode()
  (run / name).write_bytes(content)
  state = files.read_json(run / "status.json")
  state.pop("sha256")
  run_files._write_status(run, state)
  with pytest.raises(ValueError, match=says):
    gathered.read(folder)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda data: data.isel(step=0), "log10_grad_norm must be floats whose first axis is"),
    (lambda data: data.astype(bytes), "log10_grad_norm must be floats whose first axis is"),
    (lambda data: data.rename(time="run"), "log10_grad_norm must be floats whose first axis is"),
    (lambda data: data.rename(log10_grad_norm="other"), "log10_grad_norm is missing"),
    (
      lambda data: data.assign({"\x1b[31m": data["log10_grad_norm"]}),
      "the name '.x1b.31m' must not",
    ),
    (lambda data: data.drop_vars("layer"), "layer is missing"),
    (
      lambda data: data.assign_coords(time=np.zeros(4, np.int32)),
      "the coordinates of time must be",
    ),
    (lambda data: data.assign_coords(step=["a", "b"]), "the coordinates of step must be"),
  ],
)
def test_gradients_with_other_axes_or_types_are_refused(change, says, folder):
  path = folder / "runs" / "a"
  change(xr.load_dataset(path / "gradients.nc")).to_netcdf(path / "other", engine="scipy")
  (path / "other").replace(path / "gradients.nc")
  run_files._write_status(path, {"status": "finished", "diverged_step": None})
  with pytest.raises(ValueError, match=rf"a/gradients\.nc is damaged \(ValueError: {says}"):
    gathered.read(folder)


def test_gradients_whose_axes_together_exceed_the_memory_are_refused(folder, monkeypatch):
  monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**12)  # 16 MiB of memory
  for name, sizes in {"a": (2000, 1, 1), "b": (1, 1, 2000)}.items():
    data = xr.Dataset({"log10_grad_norm": (("step", "layer", "time"), np.zeros(sizes, np.float32))})
    data = data.assign_coords({dim: np.arange(n, dtype=np.int32) for dim, n in data.sizes.items()})
    data.to_netcdf(folder / "runs" / name / "gradients.nc", engine="scipy")
    run_files._write_status(folder / "runs" / name, {"status": "finished", "diverged_step": None})
  with pytest.raises(ValueError, match="The gradients of 3 runs"):
    gathered.read(folder)


def test_the_done_runs_of_an_unfinished_sweep_are_read(folder):
  run_files.start(folder, "b", {})
  _, _, complete = gathered.read(folder, partial=True)
  with pytest.raises(ValueError, match=r"run b in .* is unfinished"):
    gathered.read(folder)
  gradients, metrics, states = gathered.read(folder, partial=True)
  assert gradients["run"].values.tolist() == metrics["run"].values.tolist() == ["a", "c"]
  assert states["b"] == {"status": "running"} and states == {**complete, "b": states["b"]}
  run_files.start(folder, "a", {})
  (folder / "runs" / "c" / "status.json").unlink()
  with pytest.raises(ValueError, match="none of the 3 runs"):
    gathered.read(folder, partial=True)
