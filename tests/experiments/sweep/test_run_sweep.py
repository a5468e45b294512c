"""Tests of `experiments.run_sweep`, which trains a sweep from Python."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import jax
import pytest
import swept

import experiments
from experiments import SweepSettings
from experiments.cli import flag_table
from experiments.runtime import backend, provenance
from experiments.sweep import run_sweep as implementation
from experiments.sweep.config import engine_flags, grid
from experiments.sweep.config.flags import TABLE
from experiments.sweep.figures import gradients as figures
from experiments.sweep.records import run_files

SMALL = {"task": "adding", "hidden_size": 4, "sequence_length": 8, "batch_size": 4}
TWO = {**SMALL, "steps": 2, "seed": [0, 1]}
SETTINGS = SweepSettings(measures=(), compilation_cache="none")


@pytest.fixture(autouse=True, scope="module")
def in_a_used_process():
  """Draws no figures, and keeps the four devices of the tests, which run_sweep might replace."""
  jax.devices()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, "save_all", lambda *_: ["no picture"])
    yield


def test_the_records_are_those_of_the_command(sweep_in_process, tmp_path, capsys):
  settings = dataclasses.replace(
    SETTINGS, measures=["weight_shares", "lag"], log_every=5, test_sequence_length=[8, "2T"]
  )
  axes = {
    **SMALL,
    "cell": ["elman"],
    "elman.activation": "relu",
    "layer_norm": False,
    "truncation": [4, None],
    "clip_norm": None,
    "learning_rate": 0.01,
    "steps": 10,
  }
  before = {name: getattr(jax.config, name) for name in backend.PINNED}
  experiments.run_sweep(settings, {**axes, "seed": 1}, tmp_path / "python", progress=False)
  assert capsys.readouterr().out == ""
  data = experiments.run_sweep(settings, {**axes, "seed": range(2)}, tmp_path / "python")
  said = capsys.readouterr().out
  assert "holds a sweep of 2 runs; this one adds 2." in said and "2 of 4 runs already" in said
  assert {name: getattr(jax.config, name) for name in backend.PINNED} == before
  flags = (
    "--task=adding --hidden_size=4 --sequence_length=8 --batch_size=4 --cell=elman "
    "--cell_option=elman.activation=relu --truncation=4,full --clip_norm=none "
    "--learning_rate=0.01 --steps=10 --seed=0,1 --measures=lag,weight_shares --log_every=5 "
    "--test_sequence_length=8,2T"
  )
  assert sweep_in_process(*flags.split(), f"--output_dir={tmp_path / 'command'}") == 0
  assert swept.contents(tmp_path / "python") == swept.contents(tmp_path / "command")
  xr_command = experiments.open_sweep(tmp_path / "command")
  assert data.equals(xr_command) and data.sizes["run"] == 4
  assert data.sel(activation="relu", truncation=4).sizes["run"] == 2


def test_settings_are_the_flags_that_are_no_axis(tmp_path):
  fields = {field.name: field.default for field in dataclasses.fields(SweepSettings)}
  elsewhere = {flag.name for flag in (*engine_flags.TABLE, *engine_flags.PROCESSES)}
  elsewhere |= {*grid.AXES, "cell_option", "output_dir", "dry_run"}
  elsewhere |= {"list_cells", "list_measures", "list_flags", "import"}
  flags = {flag.name: flag for flag in TABLE if flag.name not in elsewhere}
  assert fields.keys() == flags.keys()
  defaults = flag_table.defaults(TABLE)
  for name, value in fields.items():
    if value is not None:
      value = flag_table.parser(flags[name])(implementation._text(value))
    assert value == defaults[name], name


@pytest.mark.parametrize(
  ("settings", "axes", "message"),
  [
    ({}, {"cell": "lstn"}, "If it is your own, its module must be imported first (import)."),
    ({}, {"cell": "lstn"}, "Unknown cell 'lstn'; did you mean 'lstm'?"),
    ({}, {"depth": [1, 0]}, "depth must be an integer from 1 to 2147483647, got 0."),
    ({}, {"seed": [0, 0]}, "seed must not hold a value twice, got 0 in '0,0'."),
    ({}, {"seed": []}, "seed must be a comma list without empty entries, got ''."),
    ({}, {"layer_norm": 1}, "layer_norm must be true or false, got '1'."),
    ({}, {"learning_rate": None}, "learning_rate must be a finite number above 0"),
    ({}, {"sed": 1}, "Unknown axis 'sed'; did you mean 'seed'?"),
    ({}, {"log_every": 5}, "log_every is not an axis; pass it as SweepSettings(log_every=...)."),
    ({}, {"cell": "gru", "activation": "relu"}, "Unknown cell_option 'activation'"),
    ({}, {"cell": "gru", "lstm.chrono": 8}, "cell_option must be for a selected cell, gru, got"),
    ({"log_every": 0}, {}, "log_every must be an integer from 1"),
    ({"measures": ["lags"]}, {}, "Unknown measure 'lags'; did you mean 'lag'?"),
    ({"match_params": 99}, {"hidden_size": 3}, "match_params and hidden_size must not be given"),
    ({"devices": 5}, {}, "devices must be at most the 4 CPU cores of this machine, got 5."),
    ({"select": "depth"}, {}, "select=depth needs several values of depth, got one."),
  ],
)
def test_invalid_arguments_are_refused_and_nothing_is_written(settings, axes, message, tmp_path):
  with pytest.raises(ValueError, match=re.escape(message)) as raised:
    experiments.run_sweep(SweepSettings(**settings), {"task": "adding", **axes}, tmp_path / "out")
  assert "--" not in str(raised.value)
  assert not list(tmp_path.iterdir())


def test_arguments_of_another_type_are_refused(tmp_path):
  with pytest.raises(TypeError, match="settings must be a SweepSettings"):
    experiments.run_sweep({}, {}, tmp_path)
  with pytest.raises(TypeError, match="axes must be a Mapping"):
    experiments.run_sweep(SETTINGS, ["cell"], tmp_path)


def test_a_context_manager_that_changes_numbers_is_refused(tmp_path):
  with jax.enable_x64(True), pytest.raises(ValueError, match="jax_enable_x64 must be False"):
    experiments.run_sweep(SETTINGS, SMALL, tmp_path / "out")
  assert jax.config.jax_numpy_dtype_promotion == "strict"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The folder of a finished sweep with the axes `TWO`."""
  path = tmp_path_factory.mktemp("finished")
  experiments.run_sweep(SETTINGS, TWO, path, progress=False)
  return path


def test_another_sweep_in_the_folder_is_named(folder):
  other = dataclasses.replace(SETTINGS, log_every=1)
  with pytest.raises(ValueError, match=r"output_dir holds another sweep .* pass overwrite to"):
    experiments.run_sweep(other, TWO, folder)


def test_ctrl_c_writes_a_checkpoint_and_the_next_call_resumes(tmp_path):
  axes = {**SMALL, "steps": 3000, "seed": [0, 1]}
  settings = dataclasses.replace(SETTINGS, devices=1)
  ended = threading.Event()

  def interrupt():
    while not ended.wait(0.001):
      if list((tmp_path / "parts").glob("runs/*/metrics.jsonl")):
        return os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=interrupt)
  thread.start()
  try:
    with pytest.raises(KeyboardInterrupt, match=r"of 2 runs done.*Call run_sweep again to"):
      experiments.run_sweep(settings, axes, tmp_path / "parts", progress=False)
  finally:
    ended.set()
    thread.join()
  assert list((tmp_path / "parts").glob("checkpoints/*/*"))
  data = experiments.run_sweep(settings, axes, tmp_path / "parts", progress=False)
  assert set(data["status"].values) == {"finished"} and data.sizes["run"] == 2


def test_failed_runs_are_a_warning(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  path = next(tmp_path.glob("runs/*-s1-*"))
  config = json.loads((path / "config.json").read_text())
  run_files.write_failure(tmp_path, path.name, config, "training: no memory", "")
  with pytest.warns(UserWarning, match="Some runs .* failed") as caught:
    data = experiments.run_sweep(SETTINGS, TWO, tmp_path, progress=False)
  assert caught[0].filename == __file__
  assert data.sizes["run"] == 1 and data.attrs["num_failed_runs"] == 1
  again = dataclasses.replace(SETTINGS, retry_failed=True)
  assert experiments.run_sweep(again, TWO, tmp_path, progress=False).sizes["run"] == 2


def test_the_example_of_the_page_runs_in_a_new_process_on_every_core(tmp_path):
  page = (swept.ROOT / "experiments/sweep/README.md").read_text(encoding="utf-8")
  (code,) = re.findall(r"```python\n(import experiments\n.*?)```", page, flags=re.DOTALL)
  first = "import sys, types\nsys.modules['experiments.sweep.figures.gradients'] = "
  first += "types.SimpleNamespace(save_all=lambda *_: ['no picture'])\n"
  last = "import jax\nprint(len(jax.devices()), data.sizes['run'], jax.config.jax_enable_x64)"
  environment = {**os.environ, "PYTHONPATH": str(swept.ROOT), "JAX_ENABLE_X64": "1"}
  process = subprocess.run(
    [sys.executable, "-c", first + code + last],
    cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100,
  )  # fmt: skip
  assert process.returncode == 0, process.stderr
  assert process.stdout.splitlines()[-1] == f"{len(provenance.cores())} 6 True"
  assert "JAX was in use" not in process.stdout
  assert (tmp_path / "results" / "adding_from_python" / "sweep.json").exists()
