"""Tests of sweeps whose processes are killed, suspended or stopped: they resume without loss."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import swept

from experiments import chaos

ROOT = Path(__file__).parents[3]
FLAGFILE = ROOT / "experiments" / "flagfiles" / "chaos.flags"
FLAGS = (f"--flagfile={FLAGFILE}", "--cell=elman", "--learning_rate=0.01", "--steps=2000")


def newest(folder: Path) -> int:
  steps = [int(p.name) for p in folder.glob("checkpoints/*/*") if p.name.isdecimal()]
  return max(steps, default=0)


def wait_for_a_checkpoint(folder: Path, process: subprocess.Popen[str], after: int) -> None:
  for _ in range(5000):
    if newest(folder) > after:
      return
    assert process.poll() is None, process.communicate()
    time.sleep(0.02)
  raise AssertionError("no checkpoint in 100 seconds")


def test_a_killed_or_stopped_sweep_resumes_and_ends_with_the_same_records(
  sweep_in_process, tmp_path, capsys
):
  folder, step = tmp_path / "killed", 0
  for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
    process = subprocess.Popen(
      (sys.executable, "-m", "experiments.sweep", *FLAGS, f"--output_dir={folder}"),
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    wait_for_a_checkpoint(folder, process, step)
    # As long as the process exists, even suspended, no other process may write to the folder.
    process.send_signal(signal.SIGSTOP)
    assert sweep_in_process(*FLAGS, f"--output_dir={folder}") == 2
    assert "must not be in use by another process" in capsys.readouterr().err
    process.send_signal(signal.SIGCONT)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert newest(folder) > step
    step = newest(folder)
    if number != signal.SIGKILL:
      assert "Run the same command again to resume" in err and "Traceback" not in err
  assert step < 2000
  (lines,) = folder.glob("runs/*/metrics.jsonl")
  with lines.open("a") as file:
    file.write('{"step": 15')  # an incomplete line, as a crash leaves it
  for place in (folder, tmp_path / "whole"):
    assert sweep_in_process(*FLAGS, f"--output_dir={place}") == 0
  assert chaos.records_of(folder) == chaos.records_of(tmp_path / "whole")
  assert not (folder / "checkpoints").exists()


def start(flagfile: Path, folder: Path) -> subprocess.Popen[str]:
  return swept.start(f"--flagfile={flagfile}", f"--output_dir={folder}")


def test_chaos_compares_a_sweep_that_was_killed_at_random(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(chaos, "_start", start)  # starts the same sweep, but draws no figures
  flagfile = tmp_path / "small.flags"
  flagfile.write_text(f"--flagfile={FLAGFILE}\n--cell=elman\n--measures=none\n--steps=600\n")
  assert chaos.kill_repeatedly(flagfile, 2, random.Random(3), tmp_path) == []
  assert capsys.readouterr().out.count("\nkill ") == 2
  expected = chaos.records_of(tmp_path / "whole")
  (path, *_) = (tmp_path / "killed").glob("runs/*/metrics.jsonl")
  path.write_bytes(path.read_bytes().replace(b"7", b"8", 1))
  different = chaos.different(expected, chaos.records_of(tmp_path / "killed"))
  assert different == [str(path.relative_to(tmp_path / "killed"))]
