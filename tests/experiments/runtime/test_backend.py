"""Tests that a command computes the same numbers in whatever environment it is started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from swept import ROOT, contents, start

from experiments.runtime import backend

# For each pinned setting a value that would change numbers or stop the command.
HOSTILE = {
  "jax_enable_x64": "1",
  "jax_default_matmul_precision": "bfloat16",
  "jax_default_prng_impl": "rbg",
  "jax_threefry_partitionable": "0",
  "jax_random_seed_offset": "1",
  "jax_high_dynamic_range_gumbel": "1",
  "jax_softmax_custom_jvp": "1",
  "jax_disable_jit": "1",
  "jax_debug_nans": "1",
  "jax_debug_infs": "1",
  "jax_check_tracer_leaks": "1",
  "jax_debug_key_reuse": "1",
  "jax_transfer_guard": "disallow",
  "jax_numpy_dtype_promotion": "strict",
  "jax_numpy_rank_promotion": "raise",
}
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=true --xla_cpu_enable_fast_math=true"
# With the larger gain the run diverges, which a debug setting would turn into a failure.
TWO_RUNS = (
  "--task=adding --cell=elman --cell_option=activation=linear --recurrent_gain=1,30 "
  "--hidden_size=4 --sequence_length=40 --batch_size=2 --steps=2 --measures=none"
)


@pytest.mark.timeout(120)
def test_the_environment_does_not_change_the_records_of_a_sweep(
  sweep_in_process, tmp_path, monkeypatch
):
  assert HOSTILE.keys() == backend.PINNED.keys()
  here, there = tmp_path / "here", tmp_path / "there"
  assert sweep_in_process(*TWO_RUNS.split(), f"--output_dir={here}") == 0
  for name, value in HOSTILE.items():
    monkeypatch.setenv(name.upper(), value)
  monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {XLA_FLAGS}")
  process = start(*TWO_RUNS.split(), f"--output_dir={there}", "--compilation_cache=none")
  _, err = process.communicate(timeout=100)
  assert process.returncode == 0, err
  assert contents(there) == contents(here)
  assert "diverged" in (here / "summary.csv").read_text()


# With more cores, the calls would find threads without the code under test.
ON_TWO_CORES = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])\n"
IN_PYTHON = f"""{ON_TWO_CORES}
import sys
import experiments
sizes = dict(hidden_size=64, sequence_length=3, batch_size=2, steps=2)
settings = experiments.SweepSettings(runs_per_device=2, devices=2, measures=())
axes = dict(task="adding", cell="scornn", seed=[0, 1, 2, 3], **sizes)
print(experiments.run_sweep(settings, axes, sys.argv[1], progress=False).sizes["run"], "runs")
"""


@pytest.mark.timeout(120)
def test_decompositions_of_several_matrices_find_threads_in_python(tmp_path, monkeypatch):
  monkeypatch.delenv("PJRT_NPROC", raising=False)
  command = (sys.executable, "-c", IN_PYTHON, str(tmp_path))
  ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
  assert ended.returncode == 0, ended.stderr
  assert ended.stdout == "4 runs\n"


@pytest.mark.timeout(120)
def test_decompositions_of_several_matrices_find_threads(tmp_path, monkeypatch):
  monkeypatch.delenv("PJRT_NPROC", raising=False)
  runs = "--task=adding --cell=scornn --seed=0..3 --runs_per_device=2 --devices=2 --measures=none"
  sizes = "--hidden_size=64 --sequence_length=3 --batch_size=2 --steps=2"
  output = f"--output_dir={tmp_path}"
  process = start(*runs.split(), *sizes.split(), output, first=ON_TWO_CORES)
  try:
    out, err = process.communicate(timeout=100)
  finally:
    process.kill()
  assert process.returncode == 0, err
  assert "Runs: 4 finished" in out
