"""Tests of sweeps that several processes train together, with two real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import jax
import pytest
import swept
from swept import ROOT, SMOKE, contents

RUN = ("--cell=elman", "--truncation=full", "--measures=none", "--steps=150")
TWO_DEVICES = ("--devices=2", "--data_parallel=2", "--checkpoint_every=50")


def start(folder, *flags):
  return swept.start(SMOKE, *RUN, *TWO_DEVICES, f"--output_dir={folder}", *flags)


def start_two(folder):
  with socket.socket() as any_port:
    any_port.bind(("localhost", 0))
    coordinator = f"--coordinator=localhost:{any_port.getsockname()[1]}"
  return [start(folder, coordinator, "--num_processes=2", f"--process_id={i}") for i in range(2)]


def ended(processes):
  """Waits for the processes to end; returns (exit status, standard error) of each."""
  errors = [process.communicate(timeout=100)[1] for process in processes]
  return [(p.returncode, text) for p, text in zip(processes, errors, strict=True)]


def wait_for(folder, checkpoint, process):
  """Waits until there is a checkpoint of step `checkpoint` or later; fails if the process ends."""
  while not any(int(p.name) >= checkpoint for p in folder.glob("checkpoints/*/*[0-9]")):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)


@pytest.mark.timeout(200)
def test_one_process_resumes_a_sweep_of_two_with_the_same_records(sweep_in_process, tmp_path):
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  assert [status for status, _ in ended(start_two(whole))] == [0, 0]

  processes = start_two(broken)
  wait_for(broken, 50, processes[0])
  processes[1].terminate()
  results = ended(processes)
  assert [status for status, _ in results] == [143, 143], results
  assert "0 of 1 run done" in results[0][1]

  assert sweep_in_process(SMOKE, *RUN, *TWO_DEVICES, f"--output_dir={broken}") == 0
  assert contents(broken) == contents(whole)
  assert not (broken / "checkpoints").exists()


@pytest.mark.timeout(60)
def test_a_process_whose_peers_never_start_ends_with_an_error():
  program = """
from experiments.cli import command_line
from experiments.runtime import hosts
hosts._START = 1
def main(_):
  with hosts.joined(hosts.Processes("localhost:1", 2, 1)):
    pass
command_line.run(main)
"""
  result = subprocess.run(
    (sys.executable, "-c", program), cwd=ROOT, capture_output=True, text=True, timeout=50
  )
  assert result.returncode == 2
  assert result.stderr.startswith("error: all processes must start with the same --coordinator")
  assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--coordinator=here"], "coordinator must be HOST:PORT, or auto or none, got 'here'"),
    (["--coordinator=here:0"], "coordinator must be HOST:PORT, or auto or none, got 'here:0'"),
    (["--process_id=1"], "--process_id needs --coordinator, got 1 without it"),
    (["--num_processes=2"], "--num_processes needs --coordinator, got 2 without it"),
  ],
)
def test_wrong_flags_of_processes_are_named(sweep_here, capsys, flags, message):
  assert sweep_here(*flags) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--data_parallel=2"], "--data_parallel must be the number of devices in use, 4"),
    (["--devices=3"], "--devices must be a multiple of the 2 processes, got 3"),
    (["--devices=8"], "--devices must be at most the 4 CPU cores of 2 processes, got 8"),
  ],
)
def test_devices_must_suit_several_processes(sweep_here, capsys, monkeypatch, flags, message):
  devices = jax.devices()
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "local_devices", lambda i: devices[2 * i : 2 * i + 2])
  assert sweep_here(SMOKE, *flags) == 2
  assert message in capsys.readouterr().err
