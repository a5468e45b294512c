"""A test that a run trained by two processes together equals the run trained by one process."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from shared_training import trained

ROOT = Path(__file__).parents[1]


def free_port():
  with socket.socket() as any_port:
    any_port.bind(("localhost", 0))
    return any_port.getsockname()[1]


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("x64", "optax_promotion")
def test_two_processes_train_as_one(tmp_path):
  coordinator = f"--coordinator=localhost:{free_port()}"
  program = "tests/shared_training.py", coordinator, "--num_processes=2"
  processes = [
    subprocess.Popen(
      (sys.executable, *program, f"--process_id={i}", str(tmp_path / str(i))),
      cwd=ROOT,
      env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": "2"},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  devices = jax.devices()
  expected = trained(devices[:2]), trained(devices[:4])
  errors = [process.communicate(timeout=60)[1] for process in processes]
  # At the end, the first process kills itself. The second process then ends, too, because either
  # JAX aborts it or its next collective fails.
  assert processes[0].returncode == -signal.SIGKILL, errors[0]
  assert processes[1].returncode in (-signal.SIGABRT, 1), errors[1]
  parts = [pickle.loads((tmp_path / str(i)).read_bytes()) for i in range(2)]
  two, four = jax.tree.map(lambda *own: np.concatenate(own), *parts)
  # With two devices the results are bit-identical, because two terms have the same sum in either
  # order. With four devices, two processes add up the terms in a different order from one process.
  chex.assert_trees_all_equal(two, expected[0])
  chex.assert_trees_all_close(four, expected[1], rtol=1e-10, atol=1e-12)
  assert expected[0][0].grad_norm.min() > 0.01
