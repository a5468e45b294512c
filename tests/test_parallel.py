"""Runs mapped over devices are the runs alone."""

from __future__ import annotations

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


@pytest.mark.parametrize("count", [2, 4])
def test_mapped_runs_are_the_runs_alone(count):
  runs = runs_of(count)
  states = [jax.jit(initial)(entry(runs, i)) for i in range(count)]
  alone = [jax.jit(train)(entry(runs, i), states[i], jax.random.key(9)) for i in range(count)]

  mapped = map_runs(train, jax.devices()[:count])
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *states)
  together = mapped(runs, stacked, jax.random.key(9))

  for i in range(count):
    chex.assert_trees_all_close(entry(together, i), alone[i], rtol=1e-6, atol=1e-8)


def test_every_device_has_its_own_run():
  runs = runs_of(4)
  states = jax.jit(jax.vmap(initial))(runs)
  _, records = map_runs(train, jax.devices())(runs, states, jax.random.key(9))
  assert len(records.loss.devices()) == 4
  assert len(np.unique(records.loss[:, 0])) == 4


def test_mapped_function_may_be_called_in_a_row():
  runs = runs_of(2)
  states = jax.jit(jax.vmap(initial))(runs)
  mapped = map_runs(train, jax.devices()[:2])
  losses = []
  for step in range(5):
    states, records = mapped(runs, states, jax.random.key(step))
    losses.append(records.loss)
  assert np.all(np.isfinite(losses))
  np.testing.assert_array_equal(states.step, [15, 15])
