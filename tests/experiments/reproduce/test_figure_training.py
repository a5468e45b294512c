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


def test_the_error_of_a_failed_sweep_holds_its_message(monkeypatch, sweep_here, capsys):
  def run(command, *, cwd, **_):
    assert command[:3] == (sys.executable, "-m", "experiments.sweep") and cwd == ROOT
    status = sweep_here(*command[3:])
    return subprocess.CompletedProcess(command, status, stderr=capsys.readouterr().err)

  monkeypatch.setattr(training, "subprocess", SimpleNamespace(run=run))
  with pytest.raises(RuntimeError, match=r"missing\.flags"):
    training.sweep("missing.flags")
