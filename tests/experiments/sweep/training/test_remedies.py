"""Tests that a sweep trains with the penalties, initializations and optimizers of its runs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import make_run, make_settings, tasks_of
from train_all import train_all

from experiments.sweep.config.device_layout import Layout
from rnn_jax import DeepRNN, make_cell
from rnn_jax.gradient_flow import lyapunov_spectrum
from rnn_jax.network_init import orthogonal_inputs, unit_variance
from rnn_jax.optimizers import learning_rate_schedule, make_optimizer
from rnn_jax.penalties import flossing_penalty, omega_penalty, spectral_penalty
from rnn_jax.tasks import adding
from rnn_jax.training import init_state, update

pytestmark = pytest.mark.usefixtures("optax_promotion")

TASK = adding(12, 4)
TASKS = tasks_of(TASK)
NAMES = ("loss", "grad_norm", "clipped_norm", "clipped")
ONE = Layout(jax.local_devices()[:1])
EVERYTHING = make_run(
  optimizer="sgd",
  steps=4,
  clip_norm=0.05,
  clip_by="adaptive",
  schedule="cosine",
  warmup=2,
  momentum=0.9,
  weight_decay=0.1,
  omega_penalty=0.5,
  spectral_penalty=0.3,
  flossing=0.2,
  flossing_exponents=2,
  initialization="lsuv",
)


def plain_losses(run):
  """Returns the run's losses and gradient norms, by a plain loop of `update`."""
  model = DeepRNN([make_cell("elman", 8)], TASK.output_size)
  schedule = learning_rate_schedule(run.schedule, run.learning_rate, run.steps, run.warmup)
  options = {"momentum": run.momentum, "weight_decay": run.weight_decay}
  optimizer = make_optimizer("sgd", schedule, run.clip_norm, run.clip_by, **options)
  parts = [
    omega_penalty(model, TASK.loss, run.omega_penalty),
    spectral_penalty(model, run.spectral_penalty),
    flossing_penalty(model, run.flossing, run.flossing_exponents),
  ]
  params_key, data_key = jax.random.split(jax.random.key(np.uint32(run.seed)))

  def total(params, batch):
    return sum(part(params, batch) for part in parts)

  @jax.jit
  def losses():
    xs = TASK.batch((), data_key).xs
    state = init_state(model, optimizer, params_key, xs)
    cells, own, inputs = model.trunk({"params": state.params}, xs)
    key = jax.random.fold_in(params_key, np.uint32(2**32 - 1))
    (cell,) = unit_variance(cells, orthogonal_inputs(cells, own, key), inputs)
    start = state.replace(params={**state.params, "layers_0": {"cell": cell}})

    def advance(state, step):
      batch = TASK.batch((), jax.random.fold_in(data_key, step))
      state, _, metrics = update(model, optimizer, TASK.loss, state, batch, penalty=total)
      return state, (metrics.loss, metrics.grad_norm, metrics.clipped_norm, metrics.clipped)

    return jax.lax.scan(advance, start, jnp.arange(run.steps + 1))[1]

  return losses()


def test_options_penalties_and_initialization_reach_every_run_of_a_group():
  other = dataclasses.replace(
    EVERYTHING, seed=1, warmup=1, momentum=0.5, weight_decay=0.3, omega_penalty=1.0, flossing=1.0
  )
  settings = make_settings(measures="")
  for result in train_all([EVERYTHING, other], settings, TASKS, ONE):
    found = result.records
    expected = plain_losses(result.run)
    for name, values in zip(
      ("loss", "grad_norm", "clipped_norm", "clipped"), expected, strict=True
    ):
      np.testing.assert_allclose(getattr(found, name), values, rtol=2e-4, err_msg=name)
    assert found.clipped.max() == 1


def test_flossing_before_training_starts_it_from_exponents_near_zero():
  run = make_run(steps=1, recurrent_gain=0.5, flossing_steps=40, flossing_exponents=3)
  longer = dataclasses.replace(run, flossing_steps=80)
  settings = make_settings(measures="lyapunov")
  one, two = train_all([run, longer], settings, TASKS, ONE)
  exponents = [r.records.measures["lyapunov"]["lyapunov_exponent"][0, 0, :3] for r in (one, two)]
  model = DeepRNN([make_cell("elman", 8, recurrent_gain=0.5)], TASK.output_size)
  params_key, data_key = jax.random.split(jax.random.key(np.uint32(0)))
  xs = TASK.batch((), data_key).xs
  trunk = model.trunk(jax.jit(model.init)(params_key, xs), xs)
  plain = np.mean(lyapunov_spectrum(*trunk, num_exponents=3)[0], axis=0)
  sizes = [np.sum(np.square(each)) for each in (plain, *exponents)]
  assert sizes[0] > 1.5 * sizes[1] > 1.5**2 * sizes[2]
