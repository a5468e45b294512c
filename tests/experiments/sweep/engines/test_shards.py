"""Tests of shards: trained separately and merged, they equal the sweep trained by one process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from configured import make_run
from lock_holder import held_elsewhere
from swept import ROOT, SMOKE, contents, start, sweep

from experiments import merge
from experiments.runtime import locks
from experiments.sweep.config.engine_flags import Shard
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import locking, run_files, sweep_folder

FOUR_RUNS = SMOKE, "--cell=elman", "--seed=0,1", "--measures=none", "--devices=1"
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("local") / "smoke"
  sweep(*FOUR_RUNS, f"--output_dir={folder}")
  return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
  """The output folders of three shards: shards 0 and 1 share the first one, shard 2 has its own.

  All three train at the same time.
  """
  shared, own = (tmp_path_factory.mktemp("shards") / name for name in ("shared", "own"))
  folders = shared, shared, own
  processes = [
    start(*FOUR_RUNS, "--num_shards=3", f"--shard_index={i}", f"--output_dir={folder}")
    for i, folder in enumerate(folders)
  ]
  for process, runs in zip(processes, (1, 1, 2), strict=True):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert f"This shard: {runs} of {runs} runs done, 0 failed." in out
    assert "experiments.merge" in out
  return [shared, own]


def test_shards_merge_to_the_whole_sweep_from_shared_and_own_folders(
  local, shards, tmp_path, program_here, capsys, monkeypatch
):
  assert [len(list((folder / "runs").iterdir())) for folder in shards] == [2, 2]
  assert not any((folder / "gradients.nc").exists() for folder in shards)
  for folder in shards:
    assert len(json.loads((folder / "sweep.json").read_text()).get("continued", [])) == 0
  out, synced = tmp_path / "out", []
  monkeypatch.setattr(
    merge.os, "sync", lambda: synced.append(sorted(p.name for p in (out / "runs").iterdir()))
  )
  assert program_here(merge, *shards, f"--output_dir={out}") == 0
  assert synced == [sorted(p.name for p in (local / "runs").iterdir())]  # once, after all files
  assert contents(out) == contents(local)
  assert {p.name for p in out.iterdir()} == {p.name for p in local.iterdir()}
  assert (
    json.loads((out / "sweep.json").read_text()).keys()
    == json.loads((local / "sweep.json").read_text()).keys()
  )
  said = capsys.readouterr().out
  assert "Runs: 4 finished, 0 diverged, 0 failed." in said
  pictures = {p.name: p.read_bytes() for p in (local / "figures").glob("*.png")}
  assert {p.name: p.read_bytes() for p in (out / "figures").glob("*.png")} == pictures
  assert f"start with {out / 'figures' / 'gradient'}" in said


def test_a_merge_names_missing_runs_and_keeps_the_others(shards, tmp_path, program_here, capsys):
  shared, _ = shards
  out = tmp_path / "out"
  assert program_here(merge, shared, f"--output_dir={out}") == 2
  missing = json.loads((shared / "sweep.json").read_text())["runs"][2]
  assert f"2 of 4 runs are missing, the first is {missing}" in capsys.readouterr().err
  assert len(list((out / "runs").iterdir())) == 2
  assert not (out / "gradients.nc").exists()


@pytest.fixture
def copies(shards, tmp_path) -> list[Path]:
  """Copies of the shards' folders, which a test may modify."""
  return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in shards]


def test_each_environment_is_recorded_once(copies):
  path = copies[0] / "sweep.json"
  about = json.loads(path.read_text())
  elsewhere = {**about, "devices": ["cuda:0"], "started": "then"}
  sweep_folder.note_environment(copies[0], about, elsewhere, about, elsewhere)
  sweep_folder.note_environment(copies[0], elsewhere)
  (noted,) = json.loads(path.read_text())["continued"]
  assert noted["devices"] == ["cuda:0"] and noted["started"] == "then"


def test_shards_of_another_sweep_are_not_merged(copies, program_here, capsys):
  path = copies[1] / "sweep.json"
  about = json.loads(path.read_text())
  about["configuration"]["log_every"] = 31
  del about["sha256"]  # otherwise the old checksum would reveal the modification
  path.write_text(json.dumps(about))
  assert program_here(merge, *copies) == 2
  said = capsys.readouterr().err
  assert str(copies[1]) in said and "its log_every is 31, not 10" in said
  assert len(list((copies[0] / "runs").iterdir())) == 2


@pytest.mark.parametrize("name", ["../../Documents", "/Documents", "..", "", "Documents"])
def test_run_ids_that_the_configuration_does_not_give_are_not_merged(
  copies, tmp_path, program_here, capsys, name
):
  path = copies[1] / "sweep.json"
  about = json.loads(path.read_text())
  kept = tmp_path / "Documents"
  run = sorted((copies[1] / "runs").iterdir())[0]
  shutil.copytree(run, kept)
  shutil.copytree(run, copies[1] / "runs" / "Documents")
  before = sorted(p.name for p in kept.iterdir())
  about["runs"][0] = name
  del about["sha256"]
  path.write_text(json.dumps(about))
  assert program_here(merge, copies[1], copies[0], f"--output_dir={tmp_path / 'a' / 'b'}") == 2
  said = capsys.readouterr().err
  assert f"{path} is damaged" in said and said.count("\n") == 1
  assert sorted(p.name for p in kept.iterdir()) == before and not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["runs", "runs/RUN", "runs/RUN/metrics.jsonl", "figures", ".lock"])
def test_an_output_folder_with_links_is_refused_unchanged(
  copies, tmp_path, program_here, sweep_here, capsys, name
):
  folder = copies[0]
  link = folder / name.replace("RUN", sorted((folder / "runs").iterdir())[0].name)
  outside = tmp_path / "outside"
  if link.exists():
    link.rename(outside)
  link.symlink_to(outside)
  before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
  refused = f"must not contain symbolic links, got {link}. "
  assert sweep_here(*FOUR_RUNS, "--steps=31", "--overwrite", f"--output_dir={folder}") == 2
  assert refused in capsys.readouterr().err
  assert program_here(merge, *copies) == 2
  assert refused in capsys.readouterr().err
  assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_run_in_two_folders_must_have_equal_records(copies, tmp_path, program_here, capsys):
  again = Path(shutil.copytree(copies[1], tmp_path / "again"))
  run = sorted((again / "runs").iterdir())[0]
  data = (run / "metrics.jsonl").read_bytes()
  (run / "metrics.jsonl").write_bytes(data.replace(b"0", b"1", 1))
  state = json.loads((run / "status.json").read_text())
  del state["sha256"]
  run_files._write_status(run, state)  # with a new checksum, so that the record counts as intact
  before = {p.name for p in (copies[0] / "runs").iterdir()}
  assert program_here(merge, *copies, again) == 2
  said = capsys.readouterr().err
  assert f"run {run.name}: its metrics.jsonl in {again} differs from that in {copies[1]}" in said
  assert {p.name for p in (copies[0] / "runs").iterdir()} == before


def test_a_run_that_failed_in_one_folder_and_finished_in_another_is_finished(
  copies, tmp_path, program_here, capsys, monkeypatch
):
  first = sorted((copies[1] / "runs").iterdir())[0].name
  run_files.write_failure(copies[0], first, {}, "training: no reason", "trace")
  monkeypatch.setattr("experiments.sweep.figures.gradients.save_all", lambda *_: [])
  assert program_here(merge, *copies) == 0
  assert "Runs: 4 finished, 0 diverged, 0 failed." in capsys.readouterr().out
  assert run_files.is_done(copies[0], first)
  # A run that finished in none of the folders counts as failed.
  shutil.rmtree(copies[0] / "runs" / first)
  shutil.rmtree(copies[1] / "runs" / first)
  run_files.write_failure(
    copies[1], first, json.loads(config_of(copies[0])), "training: x", "trace"
  )
  assert program_here(merge, *copies) == 2
  assert f"failed: {first}: training: x" in capsys.readouterr().out
  assert (copies[0] / "runs" / first / "error.txt").read_text() == "trace"


def config_of(folder: Path) -> str:
  return next(folder.glob("runs/*/config.json")).read_text()


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ("--num_shards=2", "--num_shards needs --shard_index, got 2 without it"),
    ("--shard_index=0", "--shard_index needs --num_shards, got 0 without it"),
    ("--num_shards=2 --shard_index=2", "--shard_index must be below --num_shards=2, got 2"),
    ("--num_shards=0 --shard_index=0", "num_shards must be an integer from 1"),
    (
      "--num_shards=2 --shard_index=1 --overwrite",
      "--overwrite must not be given with",
    ),
    ("--num_shards=2 --shard_index=1 --engine=ray", "--num_shards needs --engine=local, got ray"),
    ("--engine=ray --devices=2", "--devices must be at most the 1 devices of a task, got 2"),
    ("--engine=slurm --slurm_option=gpu", "slurm_option must be NAME=VALUE, got 'gpu'"),
    *[
      (f"--engine=slurm --slurm_option={option}", f"must not be {name}, which the engine sets")
      for option, name in (
        ("time=1", "time"),
        ("--time=1", "time"),
        ("-t=1", "time"),
        ("t=1", "time"),
        ("cpus-per-t=2", "cpus-per-task"),
        ("ntasks_per_node=2", "ntasks-per-node"),
        ("gres=gpu:1", "gpus"),
        ("no-requeue=", "no-requeue"),
      )
    ],
    ("--engine=slurm --slurm_minutes=2", "slurm_minutes must be at least 3, because SLURM may"),
    ("--engine=ray --ray_address=here", "ray_address must be HOST:PORT, or auto or local, got"),
    ("--engine=cloud", "Choose one of: local, ray, slurm"),
  ],
)
def test_contradicting_flags_are_refused(flags, says, sweep_here, capsys, tmp_path):
  assert sweep_here(SMOKE, *flags.split(), f"--output_dir={tmp_path / 'out'}") == 2
  said = capsys.readouterr().err
  assert says in said and said.count("\n") == 1
  assert not list(tmp_path.iterdir())


def test_shards_divide_the_runs_evenly_in_group_order(sweep_here, capsys, tmp_path):
  flags = SMOKE, "--cell=elman,lstm,gru", "--seed=0,1", f"--output_dir={tmp_path}", "--dry_run"

  def runs(*shard: str) -> list[str]:
    assert sweep_here(*flags, *shard) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]

  parts = [runs("--num_shards=5", f"--shard_index={i}") for i in range(5)]
  assert [run for part in parts for run in part] == runs()
  assert sorted(map(len, parts)) == [2, 2, 2, 3, 3]
  more = [runs("--num_shards=20", f"--shard_index={i}") for i in range(20)]
  assert sorted(run for part in more for run in part) == sorted(runs())


def test_a_shard_without_runs_succeeds(tmp_path, sweep_here, capsys):
  flags = "--num_shards=5", "--shard_index=0", "--compilation_cache=none"
  assert sweep_here(SMOKE, *flags, f"--output_dir={tmp_path / 'out'}") == 0
  assert "This shard: 0 of 0 runs done, 0 failed." in capsys.readouterr().out


def is_free(folder: Path, *spans: tuple[int, int, bool]) -> bool:
  """Returns whether another process can lock these byte ranges of the folder's lock file.

  Args:
    folder: the sweep's folder.
    spans: arguments of `ByteRange`: (first byte, number of bytes, whether the lock is shared).
  """
  code = """
import sys, json, pathlib
from experiments.runtime.locks import ByteRange, file_lock
with file_lock(pathlib.Path(sys.argv[1]), *[ByteRange(*s) for s in json.loads(sys.argv[2])]):
  pass
"""
  command = sys.executable, "-c", code, str(folder / ".lock"), json.dumps(spans)
  result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
  assert result.returncode == 0 or "BlockingIOError" in result.stderr, result.stderr
  return result.returncode == 0


def test_which_locks_exclude_each_other(tmp_path, unchecked_types):
  # The runs alternate between two groups, elman and lstm. Sorted by group they are a, c, b, d.
  kinds = {"a": "elman", "b": "lstm", "c": "elman", "d": "lstm"}
  runs = {name: make_run(kind, seed=ord(name)) for name, kind in kinds.items()}
  shard = Sweep(None, {}, (), "grid", runs, (), None, {}, None, tmp_path, 1, Shard(1, 4))
  assert locking.runs_of(shard) == ["c"]
  everything, whole, part = (0, 0, False), (0, 1, False), (0, 1, True)
  c, b = (2, 1, False), (3, 1, False)
  with locks.folder_lock(tmp_path):
    assert not any(is_free(tmp_path, span) for span in (whole, part, c))
  with locking.driver_lock(tmp_path):
    assert not is_free(tmp_path, part)
    assert is_free(tmp_path, c, b)
  with locking.runs_lock(shard, ["c"]):
    assert not any(is_free(tmp_path, span) for span in (everything, whole, c))
    assert is_free(tmp_path, part, b)
  with locking.runs_lock(shard, ["a", "c"], worker=True):
    assert not is_free(tmp_path, c)
    assert is_free(tmp_path, whole, b)
  assert is_free(tmp_path, everything)


def test_a_locked_folder_is_refused_with_a_message(tmp_path):
  with held_elsewhere(tmp_path / ".lock"):
    for keep in (locks.folder_lock, locking.driver_lock):
      with pytest.raises(ValueError, match="must not be in use by another process"), keep(tmp_path):
        pass
  with locks.folder_lock(tmp_path):
    pass
