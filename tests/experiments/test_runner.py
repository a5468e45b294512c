from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from experiments.grid import Run, Settings
from experiments.runner import compile_group, train_group
from rnn_jax.tasks import adding

SETTINGS = Settings("adding", "stdlib", 8, 12, 4, 30, "adam", 10)
TASK = adding(12, 4)
RUNS = [Run("lstm", 1, k, seed, 0.01, 1.0, 1.0, 1.0) for k in (4, None) for seed in (0, 1)]


def trained(runs, num_devices, settings=SETTINGS, seen=None):
  on_records = (lambda *_: None) if seen is None else lambda *args: seen.append(args)
  devices = jax.local_devices()[:num_devices]
  program = compile_group(runs, settings, TASK, devices)
  return list(train_group(program, runs, settings, TASK, devices, on_records))


@pytest.mark.usefixtures("optax_promotion")
def test_a_group_is_one_compilation(compilations):
  jax.clear_caches()
  results = trained(RUNS, 2)
  assert [result.run for result in results] == RUNS
  assert len(compilations) == 1


@pytest.mark.usefixtures("optax_promotion")
def test_records_do_not_depend_on_devices_nor_on_other_runs():
  together = trained(RUNS, 3)  # the last round has two devices without a run of their own
  for result in together:
    (alone,) = trained([result.run], 1)
    jax.tree.map(np.testing.assert_array_equal, alone.records, result.records)
  losses = [result.records.loss for result in together]
  assert not np.array_equal(losses[0], losses[1])  # another seed
  assert not np.array_equal(losses[0], losses[2])  # another truncation


@pytest.mark.usefixtures("optax_promotion")
def test_records_hold_every_step_and_norms_where_logged():
  seen = []
  (result,) = trained(RUNS[:1], 1, dataclasses.replace(SETTINGS, steps=60), seen)
  assert result.records.loss.shape == result.records.grad_norm.shape == (61,)
  for leaf in ("hidden", "cell"):
    assert result.records.norms[leaf].shape == result.records.lags[leaf].shape == (7, 1, 12)
  assert [(step, len(part.loss)) for _, step, part in seen] == [(0, 50), (50, 11)]
  np.testing.assert_array_equal(
    np.concatenate([part.loss for _, _, part in seen]), result.records.loss
  )


@pytest.mark.usefixtures("optax_promotion")
def test_numbers_of_a_run_reach_its_parameters():
  base, gain, bias = trained(
    [
      Run("lstm", 1, None, 0, 0.01, None, 1.0, 1.0),
      Run("lstm", 1, None, 0, 0.01, None, 2.0, 1.0),
      Run("lstm", 1, None, 0, 0.01, None, 1.0, 5.0),
    ],
    1,
  )
  start = [result.records.lags["cell"][0, 0] for result in (base, gain, bias)]
  # With the forget gate open the cell state keeps the gradient: σ(5)^10 = 0.94, σ(1)^10 = 0.04.
  assert start[2][11] - start[2][1] > -0.2
  assert start[0][11] - start[0][1] < -0.8
  assert not np.array_equal(start[0], start[1])


@pytest.mark.usefixtures("optax_promotion")
def test_a_diverged_run_ends_at_its_step_and_leaves_the_others_alone():
  settings = Settings("adding", "stdlib", 8, 12, 4, 200, "sgd", 10)
  wild = Run("elman", 1, None, 0, 10.0, None, 3.0, None)
  tame = Run("elman", 1, None, 0, 0.01, 1.0, 1.0, None)
  diverged, finished = trained([wild, tame], 2, settings)
  step = diverged.diverged_step
  assert step is not None and len(diverged.records.loss) == step + 1
  finite = np.isfinite(diverged.records.loss) & np.isfinite(diverged.records.grad_norm)
  assert finite[:step].all() and not finite[step]
  assert len(diverged.records.norms["hidden"]) == step // 10 + 1
  assert finished.diverged_step is None and len(finished.records.loss) == 201
  (alone,) = trained([tame], 1, settings)
  np.testing.assert_array_equal(alone.records.loss, finished.records.loss)
