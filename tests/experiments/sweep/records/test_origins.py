"""Tests that runs of different code are trained again, and those of other versions reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from other_code import add_start, set_status
from swept import ROOT, WITHOUT_PICTURES

from experiments import plot, replay
from experiments.runtime import provenance
from experiments.sweep.records import origins

FLAGS = ("--cell=elman,gru", "--task=adding", "--steps=3", "--sequence_length=5", "--hidden_size=4")
ELMAN = "rnn_jax/cells/elman.py"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
  """A folder with a copy of `rnn_jax` and `experiments`, which a test may edit."""
  folder = tmp_path_factory.mktemp("clone")
  for name in ("rnn_jax", "experiments"):
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
  return folder


def edit(clone: Path, number: int) -> None:
  with (clone / ELMAN).open("a") as file:
    file.write(f"# Edit {number}.\n")


def call(clone: Path, *flags: object, code: tuple[str, ...] = ("-c", WITHOUT_PICTURES)) -> str:
  """Runs a command with the clone's code; returns what it prints."""
  environment = {**os.environ, "PYTHONPATH": str(clone)}
  command = (sys.executable, *code, *map(str, flags))
  done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
  return done.stdout + done.stderr


def codes(folder: Path) -> dict[str, str]:
  files = folder.glob("runs/*/status.json")
  return {p.parent.name.split("-")[0]: json.loads(p.read_text())["code"] for p in files}


def test_a_run_whose_cell_was_edited_is_trained_again(clone, tmp_path):
  folder = tmp_path / "sweep"
  flags = (*FLAGS, "--seed=1", "--measures=none", "--devices=1", f"--output_dir={folder}")
  said = call(clone, *flags)
  assert "2 finished" in said and "warning" not in said
  first = codes(folder)
  edit(clone, 1)
  said = call(clone, *flags, "--keep_stale")
  assert "2 of 2 runs already done" in said
  assert f"of 1 run are kept (--keep_stale): these files differ: {ELMAN} (" in said
  assert codes(folder) == first
  said = call(clone, *flags)
  assert "1 of 2 runs already done" in said
  assert f"of 1 run are not used; their runs start again: these files differ: {ELMAN} (" in said
  second = codes(folder)
  assert second["gru"] == first["gru"] and second["elman"] != first["elman"]
  assert "warning" not in call(clone, *flags)


def test_shards_of_different_code_are_merged_only_with_keep_stale(clone, tmp_path):
  folders = tmp_path / "a", tmp_path / "b"
  flags = ("--cell=elman", *FLAGS[1:], "--seed=1,2", "--measures=none", "--devices=1")
  for i, folder in enumerate(folders):
    edit(clone, 2 + i)
    call(clone, *flags, "--num_shards=2", f"--shard_index={i}", f"--output_dir={folder}")
  code = ("-c", WITHOUT_PICTURES.replace('experiments.sweep"', 'experiments.merge"'))
  said = call(clone, *folders, code=code)
  assert f"must hold runs of the same code, but these files differ: {ELMAN} (" in said
  said = call(clone, *folders, "--keep_stale", code=code)
  assert f"made by different code: these files differ: {ELMAN} (" in said and "2 finished" in said


def test_other_versions_and_unknown_code_are_reported(tmp_path, sweep_in_process, capsys):
  folder = tmp_path / "sweep"
  flags = ("--cell=elman", *FLAGS[1:], "--seed=1,2", "--measures=none", f"--output_dir={folder}")
  assert sweep_in_process(*flags) == 0
  assert "warning" not in capsys.readouterr().err
  about = json.loads((folder / "sweep.json").read_text())
  about["versions"]["jax"] = "0.9.9"
  about["environment"]["XLA_FLAGS"] = "--xla_allow_excess_precision=false"
  (folder / "sweep.json").write_text(json.dumps(about))
  first, second = (folder / "runs" / name for name in about["runs"])
  set_status(first, code=origins.key_of(about))
  set_status(second, code=None)
  assert sweep_in_process(*flags) == 0
  said = capsys.readouterr().err
  assert "of 1 run are kept, although other versions made them: jax 0.9.9, now" in said
  assert "XLA_FLAGS --xla_allow_excess_precision=false, now" in said
  assert "of 1 run are kept, but which code made them is not recorded" in said


def test_plot_and_replay_warn_about_files_that_differ(
  tmp_path, sweep_in_process, program_here, capsys
):
  folder = tmp_path / "sweep"
  diverging = ("--learning_rate=0.01,1e30", "--optimizer=sgd", "--devices=1")
  assert sweep_in_process("--cell=elman", *FLAGS[1:], *diverging, f"--output_dir={folder}") == 0
  (file,) = folder.glob("runs/*/replay.npz")
  set_status(file.parent, code=add_start(folder, ELMAN))
  capsys.readouterr()
  for module, path, said in (
    (plot, folder, "the runs were made by different code"),
    (replay, file, "this run was recorded by different code"),
  ):
    assert program_here(module, path) == 0
    assert f"{said}: these files differ: {ELMAN} (" in capsys.readouterr().err


def test_the_recorded_code_of_a_run_excludes_other_cells_and_tasks():
  found = provenance.code("experiments.sweep.training.rounds", "zoneout_lstm", "adding")
  used = {"zoneout": "rnn_jax/cells/wrappers", "lstm": "rnn_jax/cells", "dense": "rnn_jax/cells"}
  used |= {"synthetic": "rnn_jax/tasks", "_unroll": "rnn_jax/time_loop", "training": "rnn_jax"}
  used |= {"compute": "experiments/sweep/measures", "program": "experiments/sweep/training"}
  assert found.keys() >= {f"{folder}/{name}.py" for name, folder in used.items()}
  assert not found.keys() & {"rnn_jax/cells/gru.py", "rnn_jax/tasks/charlm.py"}
  assert not any("figures" in name or "engines" in name for name in found)
