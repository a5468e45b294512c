"""One update, and streaming truncated backpropagation through time as a loop of updates."""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import DeepRNN, make_cell, unroll
from rnn_jax.gradient_flow import choose_truncation, lag_profile
from rnn_jax.losses import squared_error
from rnn_jax.tasks import Batch, adding
from rnn_jax.training import (
  OPTIMIZERS,
  TrainState,
  init_state,
  make_optimizer,
  train_windows,
  update,
)

pytestmark = pytest.mark.usefixtures("optax_promotion")
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-7)

T, B, D, H = 6, 3, 2, 4
MODEL = DeepRNN([make_cell("elman", H)] * 2, output_size=1)


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def batch_of(num_steps=T, batch_size=B, seed=0):
  mask = np.random.default_rng(seed).random((num_steps, batch_size)) < 0.7
  xs, targets = draw(seed, num_steps, batch_size, D), draw(seed + 1, num_steps, batch_size, 1)
  return Batch(xs, targets, jnp.asarray(mask))


def start(optimizer, model=MODEL):
  """As `init_state`, but without a compilation, and without zeros among the params."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), draw(0, T, B, D)))["params"]
  leaves, structure = jax.tree.flatten(shapes)
  params = structure.unflatten([0.5 * draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def updated(optimizer, model=MODEL, **fixed):
  return jax.jit(functools.partial(update, model, optimizer, squared_error, **fixed))


@jax.jit
@jax.value_and_grad
def mean_loss(params, batch, carries=None):
  _, outputs = MODEL.apply({"params": params}, batch.xs, carries)
  losses = jnp.sum((outputs - batch.targets) ** 2, axis=-1)
  return jnp.sum(jnp.where(batch.mask, losses, 0)) / jnp.sum(batch.mask)


def global_norm(tree):
  return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


# One update


@pytest.mark.parametrize(("name", "clip_norm"), [("adam", 0.1), ("rmsprop", 0.1), ("sgd", None)])
def test_update_is_one_step_of_optax_by_hand(name, clip_norm):
  batch, optimizer = batch_of(), make_optimizer(name, 0.01, clip_norm)
  state = start(optimizer)
  new, final, metrics = updated(optimizer)(state, batch)

  loss, grads = mean_loss(state.params, batch)
  norm = global_norm(grads)
  if clip_norm is not None:
    grads = jax.tree.map(lambda g: g * min(1.0, clip_norm / norm), grads)
  plain = {"adam": optax.adam, "rmsprop": optax.rmsprop, "sgd": optax.sgd}[name](0.01)
  updates, _ = plain.update(grads, plain.init(state.params))
  assert_close(new.params, jax.tree.map(jnp.add, state.params, updates))
  assert_close((metrics.loss, metrics.grad_norm), (loss, jnp.asarray(norm)))
  assert_close(final, jax.jit(MODEL.apply)({"params": state.params}, batch.xs)[0])


def test_state_starts_from_the_models_own_params_and_counts_its_steps():
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


def test_clipping_shortens_the_step_but_not_the_reported_norm():
  batch = batch_of()

  @jax.jit
  def run(state, clip_norm):
    return update(MODEL, make_optimizer("sgd", 0.5, clip_norm), squared_error, state, batch)

  state = start(make_optimizer("sgd", 0.5, 1.0))
  grad_norm = global_norm(mean_loss(state.params, batch)[1])
  for clip_norm in (math.inf, 1e6, 0.01):
    new, _, metrics = run(state, clip_norm)
    moved = global_norm(jax.tree.map(jnp.subtract, new.params, state.params))
    assert moved == pytest.approx(0.5 * min(clip_norm, grad_norm), rel=1e-4)
    assert metrics.grad_norm == pytest.approx(grad_norm, rel=1e-5)


def test_norms_do_not_depend_on_the_batch_size():
  optimizer = make_optimizer("sgd", 0.1)
  state, batch = start(optimizer), batch_of()
  twice = Batch(*(jnp.concatenate([a, a], axis=1) for a in batch))
  run = updated(optimizer)
  _, _, one = run(state, batch)
  _, _, two = run(state, twice)
  assert_close((one.loss, one.grad_norm), (two.loss, two.grad_norm))
  assert_close(jax.tree.map(lambda a: jnp.concatenate([a, a], axis=1), one.norms), two.norms)


def test_norms_are_those_of_each_examples_own_loss():
  optimizer = make_optimizer("sgd", 0.1)
  state, batch = start(optimizer), batch_of()._replace(mask=jnp.ones((T, B), bool))
  run = updated(optimizer)
  _, _, together = run(state, batch)
  for b in range(B):
    _, _, alone = run(state, Batch(*(a[:, b : b + 1] for a in batch)))
    assert_close(jax.tree.map(lambda a, b=b: a[:, b : b + 1], together.norms), alone.norms)


def test_what_the_mask_hides_changes_nothing():
  optimizer = make_optimizer("sgd", 0.1)
  state, batch = start(optimizer), batch_of()
  hidden = batch._replace(targets=jnp.where(batch.mask[..., None], batch.targets, 1e9))
  run = updated(optimizer)
  chex.assert_trees_all_equal(run(state, batch), run(state, hidden))


def test_carries_are_handed_in():
  optimizer = make_optimizer("sgd", 0.1)
  state, batch = start(optimizer), batch_of()
  carries = jax.tree.map(lambda a: draw(7, *a.shape), MODEL.initial_carries(B))
  _, _, metrics = updated(optimizer)(state, batch, carries)
  loss, _ = mean_loss(state.params, batch, carries)
  np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)


def test_dropout_is_drawn_from_its_key_and_absent_without():
  model = DeepRNN([make_cell("elman", H)] * 2, output_size=1, dropout=0.5)
  optimizer = make_optimizer("sgd", 0.1)
  state, batch = start(optimizer, model), batch_of()
  run = updated(optimizer, model)
  keys = (jax.random.key(0), jax.random.key(0), jax.random.key(1))
  first, same, other = (run(state, batch, dropout_key=key)[2].loss for key in keys)
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
  moved = global_norm(jax.tree.map(jnp.subtract, second.params, first.params))
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


# Windows


N, K = 7, 3
STREAM_RESETS = np.zeros((N, B), bool)
STREAM_RESETS[[0, 2, 3], [0, 1, 2]] = True  # at the start, inside a window, at a window's start


@pytest.mark.parametrize(
  ("name", "resets", "with_carries"),
  [("elman", None, False), ("elman", STREAM_RESETS, False), ("lstm", STREAM_RESETS, True)],
  ids=["plain", "resets", "resets-and-carries"],
)
def test_train_windows_is_a_loop_of_updates_with_the_carry_handed_on(name, resets, with_carries):
  model = DeepRNN([make_cell(name, H)], output_size=1)
  optimizer = make_optimizer("sgd", 0.05, 1.0)
  state, stream = start(optimizer, model), batch_of(N)
  carries = model.initial_carries(B)
  if with_carries:
    carries = jax.tree.map(lambda a: draw(7, *a.shape), carries)
  windows = jax.jit(
    functools.partial(train_windows, model, optimizer, squared_error, window=K, resets=resets)
  )
  got = windows(state, stream, carries=carries if with_carries else None)

  run, records = updated(optimizer, model), []
  for at in (slice(0, 3), slice(3, 6)):
    piece = None if resets is None else jnp.asarray(resets[at])
    state, carries, metrics = run(state, Batch(*(a[at] for a in stream)), carries, resets=piece)
    records.append(metrics)
  assert_close(got, (state, carries, jax.tree.map(lambda *a: jnp.stack(a), *records)))


def test_one_window_is_one_update_on_the_whole():
  optimizer = make_optimizer("sgd", 0.1)
  state, stream = start(optimizer), batch_of(N)
  windows = jax.jit(functools.partial(train_windows, MODEL, optimizer, squared_error, window=N))
  state_after, carries, metrics = windows(state, stream)
  expected = updated(optimizer)(state, stream)
  assert_close((state_after, carries, jax.tree.map(lambda a: a[0], metrics)), expected)


def test_gradient_does_not_cross_from_one_window_into_the_one_before():
  optimizer = make_optimizer("sgd", 0.1)
  state, stream = start(optimizer), batch_of(2 * K)
  asked_late = stream._replace(mask=jnp.broadcast_to(np.arange(2 * K)[:, None] >= K, (2 * K, B)))
  windows = jax.jit(functools.partial(train_windows, MODEL, optimizer, squared_error, window=K))
  _, _, metrics = windows(state, asked_late)
  assert metrics.grad_norm[0] == 0 < metrics.grad_norm[1]
  for leaf in jax.tree.leaves(metrics.norms):
    assert not np.any(leaf[0])
    assert np.any(leaf[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_infinite_clip_norm_is_no_clipping(name):
  tree = {"w": jnp.array([1e20, -1.0])}  # its square is beyond float32
  results = []
  for clip_norm in (None, math.inf):
    optimizer = make_optimizer(name, 0.1, clip_norm)
    results.append(optimizer.update(tree, optimizer.init(tree), tree)[0])
  chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e17, 1e19, 1e25, 1e37])
@pytest.mark.parametrize("clip_norm", [1e-6, 1.0, 1e6])
def test_clipping_scales_to_the_clip_norm_over_the_whole_float_range(size, clip_norm):
  tree = {"w": jnp.array([3 * size, -4 * size], jnp.float32)}
  optimizer = make_optimizer("sgd", 1.0, clip_norm)
  step, _ = optimizer.update(tree, optimizer.init(tree), tree)
  np.testing.assert_allclose(
    -step["w"], np.array([0.6, -0.8]) * min(5 * size, clip_norm), rtol=1e-5
  )


# Clipping, three ways


@functools.cache
def clipped_by(clip_by):
  """`(state, batch, clip_norm) -> (the step that was gone, metrics)`, at learning rate 1."""

  @jax.jit
  def run(state, batch, clip_norm):
    optimizer = make_optimizer("sgd", 1.0, clip_norm, clip_by)
    carry = {"clip_carry": clip_norm} if clip_by == "carry" else {}
    new, _, metrics = update(MODEL, optimizer, squared_error, state, batch, **carry)
    return jax.tree.map(jnp.subtract, state.params, new.params), metrics

  return functools.partial(run, start(make_optimizer("sgd", 1.0, 1.0, clip_by)))


@pytest.mark.parametrize("clip_by", ["global_norm", "element"])
@pytest.mark.parametrize("clip_norm", [math.inf, 1e6, 0.01])
def test_the_clipped_gradient_is_that_of_numpy_and_its_norm_is_reported(clip_by, clip_norm):
  batch = batch_of()
  moved, metrics = clipped_by(clip_by)(batch, clip_norm)
  grads = mean_loss(start(make_optimizer("sgd", 1.0)).params, batch)[1]
  norm = global_norm(grads)
  if clip_by == "element":
    expected = jax.tree.map(lambda g: np.clip(g, -clip_norm, clip_norm), grads)
  else:
    expected = jax.tree.map(lambda g: g * min(1, clip_norm / norm), grads)
  assert_close(moved, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
  np.testing.assert_allclose(metrics.clipped_norm, global_norm(expected), rtol=1e-5)
  assert metrics.clipped == (clip_norm == 0.01)


def test_clipping_the_carry_is_in_units_of_an_examples_own_loss_whatever_the_batch():
  batch = batch_of()._replace(mask=jnp.ones((T, B), bool))
  twice = Batch(*(jnp.concatenate([a, a], axis=1) for a in batch))
  run = clipped_by("carry")
  free, before = run(batch, math.inf)
  limit = float(np.median(before.norms))
  one, metrics = run(batch, limit)
  two, of_two = run(twice, limit)
  assert_close((one, metrics.clipped), (two, of_two.clipped), rtol=1e-4, atol=1e-6)
  assert before.clipped == 0
  assert metrics.clipped == pytest.approx(np.mean(np.array(metrics.norms) > limit))
  assert 0.1 < metrics.clipped < 0.9
  w_h = [tree["layers_0"]["cell"]["w_h"] for tree in (free, one)]
  assert not np.allclose(*w_h, rtol=0.1)
  assert metrics.clipped_norm == metrics.grad_norm < before.grad_norm
  # At the upper layer's last step nothing was clipped before.
  np.testing.assert_allclose(metrics.norms[1][-1], before.norms[1][-1], rtol=1e-5)
  assert np.mean(metrics.norms[0][0]) < np.mean(before.norms[0][0])


def test_clipping_the_carry_is_that_of_unroll():
  model, batch = DeepRNN([make_cell("elman", H)]), batch_of()
  batch = batch._replace(targets=draw(5, T, B, H))

  @jax.jit
  @jax.grad
  def grads(params):
    _, ys = unroll(model.cells[0], params, batch.xs, clip_carry=0.2 / B)
    losses = jnp.sum((ys - batch.targets) ** 2, axis=-1)
    return jnp.sum(jnp.where(batch.mask, losses, 0)) / jnp.sum(batch.mask)

  optimizer = make_optimizer("sgd", 1.0)
  state = start(optimizer, model)
  new, _, metrics = updated(optimizer, model, clip_carry=0.2)(state, batch)
  moved = jax.tree.map(jnp.subtract, state.params, new.params)
  assert_close(moved["layers_0"]["cell"], grads(state.params["layers_0"]["cell"]), rtol=1e-4)
  assert 0 < metrics.clipped < 1


# Adaptive truncation


def adaptive(cell, scale, tolerance, num_windows, adapt_every=1):
  """Training in windows of 8 steps; the recurrent kernel is `scale` times the identity."""
  model, optimizer = DeepRNN([cell], output_size=1), make_optimizer("sgd", 0.01)
  state, stream = start(optimizer, model), batch_of(8 * num_windows)
  state.params["layers_0"]["cell"]["w_h"] = scale * jnp.eye(H)
  stream = stream._replace(mask=jnp.ones_like(stream.mask))

  @jax.jit
  def run(state, stream):
    options = {"window": 8, "tolerance": tolerance, "adapt_every": adapt_every}
    return train_windows(model, optimizer, squared_error, state, stream, **options)

  after, _, metrics = run(state, stream)
  return model, optimizer, state, stream, after, metrics


def test_training_chooses_the_truncation_every_so_many_windows_and_reports_it():
  cell = make_cell("elman", H)
  model, optimizer, state, stream, after, metrics = adaptive(cell, 0.2, 0.01, 4, adapt_every=2)
  ks = np.asarray(metrics.truncation)
  assert ks.dtype == np.int32 and ks.shape == (4,)
  assert ks[0] == ks[1] and ks[2] == ks[3]
  assert ((ks > 1) & (ks <= 3)).all()  # 0.2³ is below the tolerance, and tanh is flatter

  @jax.jit
  def chosen(params, window):
    apply = functools.partial(model.apply, {"params": params}, method="readout")
    cell_params = [params["layers_0"]["cell"]]
    profile = lag_profile(
      [cell], cell_params, window.xs, lambda y: squared_error(apply(y), window.targets[-1])
    )
    return choose_truncation(profile, 0.01)

  # The same as windows with these truncations, one update after the other.
  run, carries = updated(optimizer, model), model.initial_carries(B)
  for i, k in enumerate(ks):
    window = Batch(*(a[8 * i : 8 * i + 8] for a in stream))
    if i % 2 == 0:
      assert chosen(state.params, window) == k
    state, carries, expected = run(state, window, carries, truncation=jnp.int32(k))
    assert_close(metrics.grad_norm[i], expected.grad_norm)
  assert_close(after, state)


def test_without_decay_the_truncation_is_the_window():
  # h' = h + W x: all lags have the same norm.
  *_, metrics = adaptive(make_cell("elman", H, activation="linear"), 1.0, 0.5, 1)
  np.testing.assert_array_equal(metrics.truncation, [8])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"tolerance": 0}, "tolerance must be greater than 0, got 0"),
    ({"tolerance": 1}, "tolerance must be below 1, got 1"),
    (
      {"tolerance": 0.1, "window": 1},
      "window must be at least 2 where a tolerance is given, got 1",
    ),
    ({"tolerance": 0.1, "adapt_every": 0}, "adapt_every must be at least 1, got 0"),
    ({"clip_carry": -1.0}, "clip_carry must be greater than 0, got -1.0"),
  ],
)
def test_what_cannot_be_is_named(options, message):
  optimizer = make_optimizer("sgd", 0.1)
  given = {"window": K, **options}
  with pytest.raises(ValueError, match=message):
    train_windows(MODEL, optimizer, squared_error, start(optimizer), batch_of(N), **given)


def test_an_unknown_way_to_clip_is_named():
  with pytest.raises(ValueError, match=r"Unknown clip_by 'norm'.* carry, element, global"):
    make_optimizer("sgd", 0.1, 1.0, "norm")
