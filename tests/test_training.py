"""Tests of one update: of the optimizer step and its metrics."""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from training_problem import (
  MODEL,
  B,
  H,
  T,
  assert_close,
  batch_of,
  draw,
  global_norm,
  mean_loss,
  start,
  updated,
)

from rnn_jax import DeepRNN, make_cell
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import Batch, adding
from rnn_jax.training import init_state, update

pytestmark = pytest.mark.usefixtures("optax_promotion")

SGD = make_optimizer("sgd", 0.1)
update_by_sgd = updated(SGD)  # compiled once for all tests that only vary the data


@pytest.mark.parametrize(("name", "clip_norm"), [("adam", 0.1), ("rmsprop", 0.1), ("sgd", None)])
def test_update_equals_a_step_of_optax(name, clip_norm):
  batch, optimizer = batch_of(), make_optimizer(name, 0.01, clip_norm)
  state = start(optimizer)
  new, final, metrics = updated(optimizer)(state, batch)

  loss, grads = mean_loss(state.params, batch)
  norm = global_norm(grads)
  if clip_norm is not None:
    grads = jax.tree.map(lambda g: np.asarray(g) * min(1.0, clip_norm / norm), grads)
  plain = {"adam": optax.adam, "rmsprop": optax.rmsprop, "sgd": optax.sgd}[name](0.01)
  updates, _ = jax.jit(lambda grads: plain.update(grads, plain.init(grads)))(grads)
  assert_close(new.params, jax.tree.map(np.add, state.params, updates))
  assert_close((metrics.loss, metrics.grad_norm), (loss, jnp.asarray(norm)))
  assert_close(final, jax.jit(MODEL.apply)({"params": state.params}, batch.xs)[0])


def test_state_starts_from_the_models_init_and_counts_steps():
  optimizer, batch = make_optimizer("adam", 0.1), batch_of()
  key = jax.random.key(0)
  state = jax.jit(functools.partial(init_state, MODEL, optimizer))(key, batch.xs)
  chex.assert_trees_all_equal(state.params, jax.jit(MODEL.init)(key, batch.xs)["params"])
  chex.assert_trees_all_equal(state.opt_state, optimizer.init(state.params))
  assert (state.step, state.step.dtype) == (0, jnp.int32)
  run = updated(optimizer)
  for step in (1, 2):
    state, _, _ = run(state, batch)
    assert state.step == step


def test_norms_do_not_depend_on_the_batch_size():
  state, batch = start(SGD), batch_of()
  twice = jax.tree.map(lambda a: np.concatenate([a, a], axis=1), batch)
  _, _, one = update_by_sgd(state, batch)
  _, _, two = update_by_sgd(state, twice)
  assert_close((one.loss, one.grad_norm), (two.loss, two.grad_norm))
  assert_close(jax.tree.map(lambda a: np.concatenate([a, a], axis=1), one.norms), two.norms)


def test_norms_are_those_of_each_examples_own_loss():
  state, batch = start(SGD), batch_of()._replace(mask=np.ones((T, B), bool))
  _, _, together = jax.device_get(update_by_sgd(state, batch))
  for b in range(B):
    one = Batch(*(np.asarray(a)[:, [b]] for a in (batch.xs, batch.targets, batch.mask)))
    _, _, alone = update_by_sgd(state, one)
    assert_close(jax.tree.map(lambda a, b=b: a[:, b : b + 1], together.norms), alone.norms)


def test_masked_targets_have_no_effect():
  state, batch = start(SGD), batch_of()
  targets = np.where(np.asarray(batch.mask)[..., None], batch.targets, np.float32(1e9))
  hidden = batch._replace(targets=targets)
  chex.assert_trees_all_equal(update_by_sgd(state, batch), update_by_sgd(state, hidden))


def test_update_starts_from_the_given_carries():
  state, batch = start(SGD), batch_of()
  carries = jax.tree.map(lambda a: draw(7, *a.shape), MODEL.initial_carries(B))
  _, _, metrics = update_by_sgd(state, batch, carries)
  loss, _ = mean_loss(state.params, batch, carries)
  np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)


def test_dropout_is_drawn_from_its_key_and_off_without_one():
  model = DeepRNN([make_cell("elman", H)] * 2, output_size=1, dropout=0.5)
  optimizer = make_optimizer("sgd", 0.1)
  state, batch = start(optimizer, model), batch_of()
  run = updated(optimizer, model)
  keys = (jax.random.key(0), jax.random.key(0), jax.random.key(1))
  first, same, other = (run(state, batch, key=key)[2].loss for key in keys)
  without = run(state, batch)[2].loss
  assert first == same
  assert len({float(first), float(other), float(without)}) == 3
  plain = updated(optimizer, model.clone(dropout=0.0))(state, batch)[2].loss
  np.testing.assert_allclose(without, plain, rtol=1e-6)


def test_one_trace_serves_all_batches_truncations_and_learning_rates():
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def run(state, batch, learning_rate, clip_norm, k):
    optimizer = make_optimizer("adam", learning_rate, clip_norm)
    return update(MODEL, optimizer, squared_error, state, batch, truncation=k)

  state = start(make_optimizer("adam", 1.0, 1.0))
  for seed, rate, clip_norm, k in ((0, 0.1, 1.0, 2), (1, 0.01, math.inf, T)):
    traced = run(state, batch_of(seed=seed), rate, clip_norm, k)
    optimizer = make_optimizer("adam", rate, clip_norm)
    fixed = updated(optimizer, truncation=k)(state, batch_of(seed=seed))
    assert_close(traced, fixed)


def test_learning_rate_may_be_a_schedule():
  optimizer = make_optimizer("sgd", optax.linear_schedule(0.0, 1.0, 2))
  state, batch = start(optimizer), batch_of()
  run = updated(optimizer)
  first, _, metrics = run(state, batch)
  chex.assert_trees_all_equal(first.params, state.params)
  second, _, _ = run(first, batch)
  moved = global_norm(jax.tree.map(np.subtract, second.params, first.params))
  assert moved == pytest.approx(0.5 * float(metrics.grad_norm), rel=1e-4)


def test_loss_falls_below_the_baseline():
  task = adding(10, 64)
  model = DeepRNN([make_cell("gru", 16)], output_size=task.output_size)
  optimizer = make_optimizer("adam", 0.02, 1.0)

  @jax.jit
  def learn(key):
    def body(state, key):
      state, _, metrics = update(model, optimizer, task.loss, state, task.batch(task.data, key))
      return state, metrics.loss

    params_key, data_key = jax.random.split(key)
    state = init_state(model, optimizer, params_key, task.batch(task.data, data_key).xs)
    return jax.lax.scan(body, state, jax.random.split(data_key, 300))[1]

  losses = learn(jax.random.key(0))
  assert np.mean(losses[-20:]) < 0.25 * task.baseline


def test_update_under_shard_map_equals_the_update_on_the_whole_batch():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  optimizer, batch = make_optimizer("adam", 0.01), batch_of(batch_size=4)

  def run(state, batch, **psum):
    state, _, metrics = update(MODEL, optimizer, squared_error, state, batch, **psum)
    return (state, metrics.loss, metrics.grad_norm), metrics.norms

  examples = PartitionSpec(None, "data")
  mapped = jax.shard_map(
    functools.partial(run, psum=functools.partial(jax.lax.psum, axis_name="data")),
    mesh=mesh,
    in_specs=(PartitionSpec(), examples),
    out_specs=(PartitionSpec(), examples),
  )
  state = start(optimizer)
  assert_close(jax.jit(mapped)(state, batch), jax.jit(run)(state, batch))
