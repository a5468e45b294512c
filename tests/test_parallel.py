"""Tests that runs on several devices equal the same runs on one device.

Either each device trains a run of its own, or several devices share the batches of one run.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import DeepRNN, make_cell
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.parallel import map_runs, psum, shard, spread
from rnn_jax.tasks import Batch, adding
from rnn_jax.training import TrainState, init_state, update

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("optax_promotion")]

TASK = adding(8, 4)
MODEL = DeepRNN([make_cell("elman", 3)], output_size=1)
KEY = jax.random.key(9)


def initial(run):
  xs = TASK.batch(TASK.data, jax.random.key(0)).xs
  return init_state(MODEL, make_optimizer("adam", 1.0, 1.0), jax.random.key(run["seed"]), xs)


def train(run, state, data_key):
  """Trains one run for three updates, with its own learning rate, clip norm and truncation."""
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
    "seed": np.arange(count, dtype=np.int32),
    "learning_rate": np.linspace(0.01, 0.1, count, dtype=np.float32),
    "clip_norm": np.linspace(0.1, 10.0, count, dtype=np.float32),
    "truncation": np.arange(1, count + 1, dtype=np.int32),
  }


def entry(tree, i):
  return jax.tree.map(lambda a: np.asarray(a)[i], tree)


@jax.jit
def initials(runs):
  return jax.lax.map(initial, runs)


@functools.cache
def mapped(count):
  return map_runs(train, jax.devices()[:count])


@pytest.mark.parametrize("count", [2, 4])
def test_mapped_runs_equal_runs_trained_alone_to_the_bit(count):
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


def test_mapped_function_may_be_called_repeatedly():
  runs = runs_of(2)
  states, losses = initials(runs), []
  for step in range(5):
    states, records = mapped(2)(runs, states, jax.random.key(step))
    losses.append(records.loss)
  assert np.all(np.isfinite(losses))
  np.testing.assert_array_equal(states.step, [15, 15])


# Tests of runs whose batch several devices share


def masked_batch(seed, num_steps=6, batch_size=8):
  """Returns a batch whose later examples tend to have fewer valid steps; the last two have none."""
  rng = np.random.default_rng(seed)
  share = np.append(np.linspace(0.9, 0.1, batch_size - 2), [0, 0])
  mask = rng.random((num_steps, batch_size)) < share
  xs = rng.standard_normal((num_steps, batch_size, 2))
  targets = rng.standard_normal((num_steps, batch_size, 1))
  return Batch(jnp.asarray(xs), jnp.asarray(targets), jnp.asarray(mask))


def random_state(model, optimizer, seed):
  shapes = jax.eval_shape(model.init, jax.random.key(0), masked_batch(0).xs)["params"]
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(a.dtype), shapes)
  return TrainState(np.zeros((), np.int32), params, jax.jit(optimizer.init)(params))


def stacked(trees):
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.mark.parametrize(
  ("cell", "runs", "count", "clip_norm"),
  [("elman", 1, 2, 0.1), ("lstm", 1, 4, None), ("lstm", 2, 2, 0.1)],
)
def test_devices_that_share_batches_train_as_one_device(x64, cell, runs, count, clip_norm):
  model = DeepRNN([make_cell(cell, 3)] * 2, output_size=1)
  optimizer = make_optimizer("adam", 0.1, clip_norm)

  def penalty(params, batch):
    return jnp.mean(batch.xs**2) * optax.tree.norm(params)

  total = functools.partial(psum, count=count)

  def train(run, state, batches, count=1, **options):
    def body(state, batch):
      part = shard(batch, count)
      state, _, metrics = update(
        model,
        optimizer,
        squared_error,
        state,
        part,
        truncation=run,
        penalty=penalty if cell == "elman" else None,
        **options,
      )
      return state, metrics

    return jax.lax.scan(body, state, batches)

  batches = stacked([masked_batch(seed) for seed in range(3)])
  truncations = np.arange(2, 2 + runs)
  states = [random_state(model, optimizer, seed) for seed in range(runs)]
  alone = [jax.jit(train)(k, state, batches) for k, state in zip(truncations, states, strict=True)]

  shared = map_runs(
    functools.partial(train, count=count, psum=total), jax.devices()[: runs * count]
  )
  repeated = [state for state in states for _ in range(count)]
  results = shared(np.repeat(truncations, count), stacked(repeated), batches)
  got, metrics = jax.device_get(results)
  close = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)
  for run, (state, expected) in enumerate(alone):
    own = slice(run * count, (run + 1) * count)
    for device in range(*own.indices(runs * count)):
      close(entry(got, device), state)
      close(metrics.loss[device], expected.loss)
      close(metrics.grad_norm[device], expected.grad_norm)
    # Concatenate the norms of a run's devices, each [updates, T, B / count], to [updates, T, B].
    norms = jax.tree.map(lambda a, own=own: np.concatenate(a[own], axis=-1), metrics.norms)
    close(norms, expected.norms)
    assert expected.grad_norm.min() > 0.1  # so that clip_norm=0.1 has an effect


def test_a_function_with_a_sum_over_devices_may_be_called_repeatedly():
  def grow(run, state, data):
    state = state + psum(jnp.tanh(state @ data), 2)
    return state, jnp.sum(state)

  mapped = map_runs(grow, jax.devices()[:4])
  data = jnp.full((64, 64), 1e-3)
  # The first call returns its results on the devices. Later calls reuse them without copies, so no
  # copy makes a call wait for the previous one.
  state, run = mapped(jnp.zeros(4), jnp.ones((4, 64, 64)), data)
  for _ in range(1000):
    state, _ = mapped(run, state, data)
  assert np.all(np.isfinite(state))


def test_a_count_that_does_not_divide_batch_or_devices_is_an_error():
  def call(function, *shape):
    mapped = map_runs(lambda run, state, data: (state, function(data)), jax.devices()[:4])
    mapped(jnp.zeros(4), jnp.zeros(4), jnp.zeros(shape))

  with pytest.raises(ValueError, match="count must divide the batch size 7, got 2"):
    call(lambda data: shard(data, 2), 5, 7)
  with pytest.raises(ValueError, match="count must divide the number of devices 4, got 3"):
    call(lambda data: psum(data, 3))
  for function in (shard, psum):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
      function(jnp.zeros((5, 8)), 0)


def test_spread_needs_one_entry_a_device():
  with pytest.raises(
    ValueError, match=r"leaves \[devices, ...\] with 4 entries, got float\d\d\[3\]"
  ):
    spread(np.zeros(3), jax.devices()[:4])
