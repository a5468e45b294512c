"""A small network with random data, shared by the tests of training."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import DeepRNN, make_cell
from rnn_jax.losses import squared_error
from rnn_jax.tasks import Batch
from rnn_jax.training import TrainState, update

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-7)

T, B, D, H = 6, 3, 2, 4
MODEL = DeepRNN([make_cell("elman", H)] * 2, output_size=1)


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def batch_of(num_steps=T, batch_size=B, seed=0):
  mask = np.random.default_rng(seed).random((num_steps, batch_size)) < 0.7
  xs, targets = draw(seed, num_steps, batch_size, D), draw(seed + 1, num_steps, batch_size, 1)
  return Batch(xs, targets, jnp.asarray(mask))


def piece(tree, first, last):
  """Returns the steps [first, last) of a tree with leaves [T, ...]."""
  return jax.tree.map(lambda a: np.asarray(a)[first:last], tree)


def start(optimizer, model=MODEL):
  """Returns a state like that of `init_state`, but with random biases, and without compiling."""
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
