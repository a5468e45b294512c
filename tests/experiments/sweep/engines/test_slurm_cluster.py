"""Tests of the SLURM engine on a real cluster of two nodes, without accounting."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

import pytest
import slurm_cluster
from swept import SMOKE, contents, start

# So long that neither run finishes while a test waits for the first checkpoint of both.
LONG = (
  SMOKE,
  *("--cell=elman,minimalrnn", "--truncation=full", "--measures=none", "--steps=120000"),
  "--log_every=60000",
)
pytestmark = [
  pytest.mark.timeout(280),
  pytest.mark.skipif(
    bool(slurm_cluster.missing()), reason=f"needs {', '.join(slurm_cluster.missing())}"
  ),
]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("local") / "long"
  _, err = start(*LONG, f"--output_dir={folder}", "--devices=1").communicate(timeout=100)
  assert not err
  return folder


@pytest.fixture
def launch():
  """A function that starts a sweep; the sweep is killed at the end of the test."""
  with contextlib.ExitStack() as stack:

    def launch(*flags: object) -> subprocess.Popen[str]:
      process = stack.enter_context(start(*flags))
      stack.callback(process.kill)
      return process

    yield launch


@pytest.fixture(scope="module", autouse=True)
def cluster():
  with pytest.MonkeyPatch.context() as patch, slurm_cluster.running() as environment:
    for name in ("PATH", "SLURM_CONF"):
      patch.setenv(name, environment[name])
    yield


def slurm(*command: str) -> str:
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def queue() -> dict[str, str]:
  lines = slurm("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
  return dict(line.split() for line in lines)


def until(ready) -> None:
  late = time.monotonic() + 120
  while not ready():
    assert time.monotonic() < late
    time.sleep(0.1)


def has(process: subprocess.Popen[str], *texts: str) -> None:
  """Waits until standard error has had a line with each of these texts, in this order."""
  for text in texts:
    for line in process.stderr:
      if text in line:
        break
    else:
      raise AssertionError(text)


def saved(folder: Path, count: int) -> bool:
  """Returns whether the folder holds `count` checkpoints of unfinished runs from after step 0."""
  return len(list(folder.glob("checkpoints/*/[1-9]*/checkpoint.json"))) == count


def started(folder: Path) -> int:
  """Returns the number of workers of this sweep that have started Python with SIGUSR2 blocked."""
  found = 0
  for path in Path("/proc").glob("[0-9]*/cmdline"):
    with contextlib.suppress(OSError):
      command = path.read_bytes().decode().split("\0")
      found += command[1:4] == ["-u", "-m", "submitit.core._submit"] and str(folder) in command[4]
  return found


def test_a_canceled_job_fails_and_a_suspended_job_is_waited_for(local, launch, tmp_path):
  folder = tmp_path / "out"
  process = launch(*LONG, f"--output_dir={folder}", "--engine=slurm")
  until(lambda: saved(folder, 2))
  canceled, suspended = queue()
  slurm("scancel", canceled)
  slurm("scontrol", "suspend", suspended)
  has(process, f"SLURM jobs suspended: {suspended}", f"SLURM job {canceled} failed; see ")
  slurm("scontrol", "resume", suspended)
  out, err = process.communicate(timeout=100)
  assert process.returncode == 2
  assert "Runs: 1 finished, 0 diverged, 1 failed." in out and err == ""
  (error,) = folder.glob("runs/*/error.txt")
  assert "CANCELLED" in error.read_text()
  # The next launch trains the failed run, even if its driver is killed. Another launch gathers it.
  process = launch(*LONG, f"--output_dir={folder}", "--engine=slurm", "--retry_failed")
  until(lambda: "RUNNING" in queue().values())
  process.kill()
  process.communicate()
  until(lambda: not queue())
  process = launch(*LONG, f"--output_dir={folder}", "--engine=slurm")
  out, err = process.communicate(timeout=100)
  assert process.returncode == 0 and err == ""
  assert "2 of 2 runs already done" in out
  assert contents(folder) == contents(local)
  assert not list(folder.glob("runs/*/error.txt"))


def test_jobs_signaled_before_they_train_are_requeued(local, launch, tmp_path):
  folder = tmp_path / "out"
  process = launch(*LONG, f"--output_dir={folder}", "--engine=slurm")
  until(lambda: started(folder) == 2)
  slurm("scancel", "--signal=USR2", *queue())
  until(lambda: set(queue().values()) == {"PENDING"})
  assert saved(folder, 0)
  out, err = process.communicate(timeout=200)
  assert process.returncode == 0, err
  assert "Runs: 2 finished, 0 diverged, 0 failed." in out
  assert all("SLURM jobs pending (BeginTime): " in line for line in err.splitlines())
  logs = [log.read_text() for log in folder.glob("slurm_logs/*_log.out")]
  assert [log.count("Requeued job") for log in logs] == [1, 1]
  assert contents(folder) == contents(local)


def test_reasons_of_pending_jobs_and_jobs_of_a_killed_driver_are_reported(local, launch, tmp_path):
  folder = tmp_path / "out"
  command = (*LONG, f"--output_dir={folder}", "--engine=slurm", "--slurm_minutes=3")
  process = launch(*command, "--slurm_option=partition=short")
  has(process, "SLURM jobs pending (PartitionTimeLimit): ")
  for job in queue():
    slurm("scontrol", "hold", job)
  has(process, "SLURM jobs pending (JobHeld")
  process.kill()
  process.communicate()
  process = launch(*command)
  _, err = process.communicate(timeout=100)
  assert process.returncode == 2 and err.count("\n") == 1
  assert f"still has SLURM jobs from an earlier launch ({', '.join(sorted(queue()))})" in err
  slurm("scancel", *queue())
  process = launch(*command)
  _, err = process.communicate(timeout=100)
  assert process.returncode == 0, err
  assert err == ""
  assert contents(folder) == contents(local)


# This test comes last, because the node stays down.
def test_jobs_of_a_node_that_crashes_resume_on_another(local, launch, tmp_path):
  folder = tmp_path / "out"
  process = launch(*LONG, f"--output_dir={folder}", "--engine=slurm")
  until(lambda: saved(folder, 2))
  node, *_ = slurm("squeue", "--noheader", "--format=%N").split()
  slurm_cluster.crash(node)
  slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")
  out, err = process.communicate(timeout=200)
  assert process.returncode == 0, err
  assert "Runs: 2 finished, 0 diverged, 0 failed." in out
  assert contents(folder) == contents(local)
