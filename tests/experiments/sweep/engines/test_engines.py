"""Tests of Ray and SLURM: killed or interrupted workers do not change the records of a sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from swept import SMOKE, contents, start

from experiments.sweep import engines
from experiments.sweep.config import engine_flags

# Flags of a sweep with a single run, and so a single worker, that trains long enough to be killed
# before it finishes.
LONG = (
  SMOKE,
  *("--cell=elman", "--truncation=full", "--measures=none", "--steps=3000", "--log_every=1000"),
)
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("local") / "long"
  end(start(*LONG, f"--output_dir={folder}", "--devices=1"))
  return folder


def processes() -> dict[int, tuple[int, str]]:
  """Returns {process id: (id of the parent process, command line)} of all processes."""
  found = {}
  for path in Path("/proc").glob("[0-9]*"):
    try:
      command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
      parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
      continue  # the process has exited in the meantime
    found[int(path.name)] = parent, command
  return found


def descendants(pid: int, word: str) -> list[int]:
  """Returns the ids of the descendants of process `pid` whose command line contains `word`."""
  every = processes()

  def comes(other: int) -> bool:
    parent = every.get(other, (0, ""))[0]
    return parent == pid or (parent > 1 and comes(parent))

  return [other for other, (_, command) in every.items() if word in command and comes(other)]


def until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
  """Waits until `ready()` is true; fails if the process exits first, or after 200 seconds."""
  late = time.monotonic() + 200
  while not ready():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < late
    time.sleep(0.02)


def saved(folder: Path) -> bool:
  """Returns whether the folder holds an unfinished run's checkpoint from after step 0."""
  return any(folder.glob("checkpoints/*/[1-9]*/checkpoint.json"))


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
  out, err = process.communicate(timeout=200)
  assert process.returncode == 0, err
  return out, err


def test_every_engine_has_a_flag():
  assert tuple(engines.ENGINES) == engine_flags.ENGINE_NAMES


@pytest.mark.parametrize(
  ("engine", "says"),
  [
    ("ray", "--engine=ray needs the package ray; in the clone: pip install -e '.[ray]'."),
    ("slurm", "--engine=slurm needs the package submitit; in the clone: pip install -e '.[slurm"),
  ],
)
def test_a_missing_package_is_named(engine, says, sweep_here, capsys, tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
  assert sweep_here(SMOKE, f"--engine={engine}", f"--output_dir={tmp_path / 'out'}") == 2
  assert says in capsys.readouterr().err
  assert sweep_here(SMOKE, f"--engine={engine}", "--dry_run") == 0
  assert not list(tmp_path.iterdir())


def test_a_missing_cluster_is_named(sweep_here, capsys, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert sweep_here(SMOKE, "--engine=slurm", f"--output_dir={tmp_path / 'out'}") == 2
  assert "srun was not found" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_ray_resumes_the_runs_of_a_killed_worker(local, tmp_path):
  folder = tmp_path / "ray"
  process = start(*LONG, f"--output_dir={folder}", "--engine=ray")
  until(lambda: saved(folder), process)
  (worker,) = descendants(process.pid, "ray::_train")
  os.kill(worker, signal.SIGKILL)
  assert not (folder / "gradients.nc").exists()
  out, err = end(process)
  assert "Traceback" not in err
  assert "Runs: 1 finished, 0 diverged, 0 failed." in out
  assert contents(folder) == contents(local)
  assert not descendants(process.pid, "ray")


def test_ray_does_not_retry_an_error_of_the_user(tmp_path):
  text = tmp_path / "text.txt"
  text.write_bytes(b"the quick brown fox jumps over the lazy dog\n" * 500)
  folder = tmp_path / "ray"
  process = start(f"--corpus={text}", f"--output_dir={folder}", "--engine=ray")
  until((folder / "sweep.json").exists, process)
  text.unlink()  # the driver has read the corpus, but the worker has not read it yet
  _, err = process.communicate(timeout=200)
  assert process.returncode == 2
  assert err.count("\n") == 1 and "corpus" in err and str(text) in err
  assert not (folder / "runs").exists()


def test_a_ray_cluster_whose_head_dies_is_named(tmp_path):
  soon = "from experiments.sweep.engines import ray; ray._HEAD_SECONDS = 1.0"
  process = start(*LONG, f"--output_dir={tmp_path / 'ray'}", "--engine=ray", first=soon)
  until(lambda: bool(descendants(process.pid, "ray::_train")), process)
  (head,) = descendants(process.pid, "gcs_server --")
  os.kill(head, signal.SIGKILL)
  _, err = process.communicate(timeout=100)
  assert process.returncode == 2
  assert err.startswith("error: The head of the Ray cluster, ") and err.count("\n") == 1


def test_an_interrupted_slurm_job_is_requeued_and_resumes(local, tmp_path):
  folder = tmp_path / "slurm"
  process = start(*LONG, f"--output_dir={folder}", "--engine=slurm", "--slurm_cluster=local")
  until(lambda: len(descendants(process.pid, "python -u -m submitit.core._submit")) == 1, process)
  (job,) = descendants(process.pid, "submitit.core._submit")
  os.kill(job, signal.SIGUSR2)  # sent before the job installs its handler
  until(lambda: saved(folder), process)
  (later,) = descendants(process.pid, "submitit.core._submit")
  assert later != job
  job = later
  os.kill(job, signal.SIGUSR2)
  until(lambda: descendants(process.pid, "submitit.core._submit") not in ([], [job]), process)
  assert saved(folder)  # the requeued job resumes from this checkpoint
  out, err = end(process)
  assert err == ""
  assert "Runs: 1 finished, 0 diverged, 0 failed." in out
  assert contents(folder) == contents(local)
  (log,) = (folder / "slurm_logs").glob("*_log.out")
  assert log.read_text().count("Requeued job") == 2
