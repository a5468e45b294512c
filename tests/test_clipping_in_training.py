"""Tests of the four ways to clip the gradient, and of the metrics that report clipping."""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
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

from rnn_jax import DeepRNN, make_cell, unroll
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import OPTIMIZERS, make_optimizer
from rnn_jax.training import update

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_clipping_shortens_the_step_but_not_the_reported_norm():
  batch = batch_of()

  @jax.jit
  def run(state, clip_norm):
    return update(MODEL, make_optimizer("sgd", 0.5, clip_norm), squared_error, state, batch)

  state = start(make_optimizer("sgd", 0.5, 1.0))
  grad_norm = global_norm(mean_loss(state.params, batch)[1])
  for clip_norm in (math.inf, 1e6, 0.01):
    new, _, metrics = run(state, clip_norm)
    moved = global_norm(jax.tree.map(np.subtract, new.params, state.params))
    assert moved == pytest.approx(0.5 * min(clip_norm, grad_norm), rel=1e-4)
    assert metrics.grad_norm == pytest.approx(grad_norm, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_infinite_clip_norm_is_no_clipping(name):
  tree = {"w": np.array([1e20, -1.0], np.float32)}  # 1e20 squared overflows float32

  @jax.jit
  def both(tree):
    optimizers = [make_optimizer(name, 0.1, clip_norm) for clip_norm in (None, math.inf)]
    return [optimizer.update(tree, optimizer.init(tree), tree)[0] for optimizer in optimizers]

  chex.assert_trees_all_equal(*both(tree))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e17, 1e19, 1e25, 1e37])
@pytest.mark.parametrize("clip_norm", [1e-6, 1.0, 1e6])
def test_clipping_scales_to_the_clip_norm_over_the_whole_float_range(size, clip_norm):
  tree = {"w": jnp.array([3 * size, -4 * size], jnp.float32)}
  optimizer = make_optimizer("sgd", 1.0, clip_norm)
  step, _ = optimizer.update(tree, optimizer.init(tree), tree)
  np.testing.assert_allclose(
    -step["w"], np.array([0.6, -0.8]) * min(5 * size, clip_norm), rtol=1e-5
  )


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e17, 1e19, 1e25, 1e35])
def test_adaptive_clipping_holds_over_the_whole_float_range(size):
  grads = {"w": jnp.array([[3 * size, 0], [-4 * size, 2 * size]], jnp.float32)}
  params = {"w": jnp.array([[0, 2], [5, 0]], jnp.float32)}
  optimizer = make_optimizer("sgd", 1.0, 0.1, "adaptive")
  step, state = optimizer.update(grads, optimizer.init(params), params)
  shares = np.minimum(1, 0.1 * np.array([5, 2]) / (np.array([5, 2]) * size))
  np.testing.assert_allclose(-step["w"], np.asarray(grads["w"], float) * shares, rtol=1e-5)
  (state, _) = state
  assert state.clipped == (size >= 1)


def test_adaptive_clipping_passes_what_is_not_finite_so_that_it_is_noticed():
  for value in (math.nan, math.inf):
    grads = {"w": jnp.array([[value], [1.0]], jnp.float32)}
    optimizer = make_optimizer("sgd", 1.0, 0.1, "adaptive")
    step, _ = optimizer.update(grads, optimizer.init(grads), {"w": jnp.ones((2, 1), jnp.float32)})
    assert not np.isfinite(step["w"]).all()


@functools.cache
def clipped_by(clip_by):
  """Returns `(batch, clip_norm) -> (clipped gradient, metrics)`, computed by one update.

  The update is by SGD at learning rate 1, so the clipped gradient is params before − params after.
  """

  @jax.jit
  def run(state, batch, clip_norm):
    optimizer = make_optimizer("sgd", 1.0, clip_norm, clip_by)
    carry = {"clip_carry": clip_norm} if clip_by == "carry" else {}
    new, _, metrics = update(MODEL, optimizer, squared_error, state, batch, **carry)
    return jax.tree.map(jnp.subtract, state.params, new.params), metrics

  return functools.partial(run, start(make_optimizer("sgd", 1.0, 1.0, clip_by)))


def clipped_adaptively(params, grads, factor):
  """Clips each unit's gradient to a share of the unit's norm, in NumPy."""

  def clip(w, g):
    w, g = np.asarray(w, np.float64), np.asarray(g, np.float64)
    units = {} if w.ndim == 1 else {"axis": 0, "keepdims": True}  # a bias is one unit
    sizes = [np.sqrt(np.sum(a**2, **units)) for a in (w, g)]
    return g * np.minimum(1, factor * np.maximum(sizes[0], 1e-3) / sizes[1])

  return jax.tree.map(clip, params, grads)


@pytest.mark.parametrize("clip_by", ["global_norm", "element", "adaptive"])
@pytest.mark.parametrize("clip_norm", [math.inf, 1e6, 0.01])
def test_the_clipped_gradient_equals_numpys_and_its_norm_is_reported(clip_by, clip_norm):
  batch = batch_of()
  moved, metrics = clipped_by(clip_by)(batch, clip_norm)
  params = start(make_optimizer("sgd", 1.0)).params
  grads = mean_loss(params, batch)[1]
  norm = global_norm(grads)
  if clip_by == "adaptive":
    expected = clipped_adaptively(params, grads, clip_norm)
  elif clip_by == "element":
    expected = jax.tree.map(lambda g: np.clip(g, -clip_norm, clip_norm), grads)
  else:
    expected = jax.tree.map(lambda g: np.asarray(g) * min(1, clip_norm / norm), grads)
  assert_close(moved, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
  np.testing.assert_allclose(metrics.clipped_norm, global_norm(expected), rtol=1e-5)
  assert metrics.clipped == (clip_norm == 0.01)


def test_clip_carry_applies_to_each_examples_own_loss_for_any_batch_size():
  batch = batch_of()._replace(mask=np.ones((T, B), bool))
  twice = jax.tree.map(lambda a: np.concatenate([a, a], axis=1), batch)
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
  # The backward pass begins at the upper layer's last step, so no earlier clipping has changed the
  # norm at this step.
  np.testing.assert_allclose(metrics.norms[1][-1], before.norms[1][-1], rtol=1e-5)
  assert np.mean(metrics.norms[0][0]) < np.mean(before.norms[0][0])


def test_clip_carry_of_update_equals_that_of_unroll_divided_by_the_batch_size():
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
  moved = jax.tree.map(np.subtract, state.params, new.params)
  assert_close(moved["layers_0"]["cell"], grads(state.params["layers_0"]["cell"]), rtol=1e-4)
  assert 0 < metrics.clipped < 1


def test_an_unknown_clip_by_is_named():
  with pytest.raises(ValueError, match=r"Unknown clip_by 'norm'.* carry, element, global"):
    make_optimizer("sgd", 0.1, 1.0, "norm")
