"""Runs mapped over devices are the runs alone."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, make_cell
from rnn_jax.parallel import map_runs
from rnn_jax.tasks import adding
from rnn_jax.training import init_state, make_optimizer, update

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("optax_promotion")]

TASK = adding(8, 4)
MODEL = DeepRNN([make_cell("elman", 3)], output_size=1)
KEY = jax.random.key(9)


def initial(run):
  xs = TASK.batch(TASK.data, jax.random.key(0)).xs
  return init_state(MODEL, make_optimizer("adam", 1.0, 1.0), jax.random.key(run["seed"]), xs)


def train(run, state, data_key):
  """Three updates of one run, with a learning rate, clip norm and truncation of its own."""
  optimizer = make_optimizer("adam", run["learning_rate"], run["clip_norm"])

  def body(state, step):
    batch = TASK.batch(TASK.data, jax.random.fold_in(data_key, step))
    state, _, metrics = update(
      MODEL, optimizer, TASK.loss, state, batch, truncation=run["truncation"]
    )
    return state, metrics

  return jax.lax.scan(body, state, jnp.arange(3))


def runs_of(count):
  return {
    "seed": jnp.arange(count),
    "learning_rate": jnp.linspace(0.01, 0.1, count),
    "clip_norm": jnp.linspace(0.1, 10.0, count),
    "truncation": jnp.arange(1, count + 1),
  }


def entry(tree, i):
  return jax.tree.map(lambda a: a[i], tree)


@jax.jit
def initials(runs):
  return jax.lax.map(initial, runs)


@functools.cache
def mapped(count):
  return map_runs(train, jax.devices()[:count])


@pytest.mark.parametrize("count", [2, 4])
def test_mapped_runs_are_the_runs_alone_to_the_bit(count):
  runs = runs_of(count)
  states = initials(runs)
  alone = [jax.jit(train)(entry(runs, i), entry(states, i), KEY) for i in range(count)]
  together = mapped(count)(runs, states, KEY)
  for i in range(count):
    chex.assert_trees_all_equal(entry(together, i), alone[i])


def test_every_device_has_its_own_run():
  runs = runs_of(4)
  _, records = mapped(4)(runs, initials(runs), KEY)
  assert len(records.loss.devices()) == 4
  assert len(np.unique(records.loss[:, 0])) == 4


def test_mapped_function_may_be_called_in_a_row():
  runs = runs_of(2)
  states, losses = initials(runs), []
  for step in range(5):
    states, records = mapped(2)(runs, states, jax.random.key(step))
    losses.append(records.loss)
  assert np.all(np.isfinite(losses))
  np.testing.assert_array_equal(states.step, [15, 15])
