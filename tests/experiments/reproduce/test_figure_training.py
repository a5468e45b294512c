"""Tests of training for figures: several runs in one program, and sweeps in subprocesses."""

from __future__ import annotations

import itertools
import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from swept import ROOT

from experiments.reproduce import training

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.mark.parametrize("count", [1, 5])
def test_runs_keep_their_order(count):
  # A run's state is a pair: the sum of run × data over the calls of `advance`, and their count.
  calls = training.train_runs(
    lambda run, data: (run * 0, jnp.zeros((), jnp.int32)),
    lambda run, state, data: ((state[0] + run * data, state[1] + 1), state[0]),
    [np.float32(i) for i in range(count)],
    jnp.asarray(10.0),
  )
  for i, ((totals, steps), before) in enumerate(itertools.islice(calls, 3)):
    np.testing.assert_array_equal(totals, 10.0 * np.arange(count) * (i + 1))
    np.testing.assert_array_equal(before, 10.0 * np.arange(count) * i)
    np.testing.assert_array_equal(steps, [i + 1] * count)


def test_runs_share_one_program_that_is_traced_once():
  traced = []

  def advance(run, state, data):
    traced.append(run)
    return state + run, state

  calls = training.train_runs(lambda run, data: run * 0, advance, [np.float32(1), np.float32(2)])
  for _ in itertools.islice(calls, 3):
    pass
  assert len(traced) == 1


@pytest.fixture
def in_process(monkeypatch, sweep_in_process, capsys):
  """Makes `training.sweep` run its command in this process."""

  def run(command, *, cwd, **_):
    assert command[:3] == (sys.executable, "-m", "experiments.sweep") and cwd == ROOT
    status = sweep_in_process(*command[3:])
    return subprocess.CompletedProcess(command, status, stderr=capsys.readouterr().err)

  fake = SimpleNamespace(run=run, PIPE=subprocess.PIPE)
  monkeypatch.setattr(training, "subprocess", fake)


@pytest.mark.usefixtures("in_process")
def test_the_error_of_a_failed_sweep_holds_its_message():
  with pytest.raises(RuntimeError, match=r"missing\.flags"):
    training.sweep("missing.flags")


@pytest.mark.usefixtures("in_process")
def test_a_sweep_in_a_folder_resumes(tmp_path):
  flags = ("--task=adding", "--cell=elman", "--sequence_length=3", "--batch_size=2", "--steps=1")
  small = ("smoke.flags", *flags, "--depth=1", "--truncation=full", "--hidden_size=2")
  gradients, _, earlier = training.sweep(*small, "--seed=0", folder=tmp_path / "sweep")
  assert (gradients.sizes["run"], earlier) == (1, 0)
  gradients, _, earlier = training.sweep(*small, "--seed=0,1", folder=tmp_path / "sweep")
  assert (gradients.sizes["run"], earlier) == (2, 1)
