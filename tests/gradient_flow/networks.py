"""Small deep networks with random params, shared by the tests in this folder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import make_cell


def draw(seed, *shape, scale=0.6):
  return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), float)


def network(names, hidden_size, input_size=2):
  """Returns (cells, params) of a deep network, one cell per name.

  All params are random, biases too, because zeros would hide the terms that they multiply.
  """
  cells, params = [make_cell(name, hidden_size) for name in names], []
  for depth, cell in enumerate(cells):
    shapes = jax.eval_shape(lambda cell=cell, size=input_size: cell.init(jax.random.key(0), size))
    params.append({k: draw(10 * depth + len(k), *a.shape) for k, a in shapes.items()})
    input_size = hidden_size
  return cells, params


def large_params(cell, input_size):
  """Returns random params of one cell, large enough to spread its Jacobians' singular values."""
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  names = sorted(shapes, reverse=True)
  return {name: draw(i, *shapes[name].shape, scale=0.8) for i, name in enumerate(names)}


def large_carry(cell, batch_size):
  """Returns a random carry at the scale of `large_params`, with different values in each leaf."""
  leaves, structure = jax.tree.flatten(cell.initial_carry((batch_size,)))
  drawn = [draw(9 + i, *leaf.shape, scale=0.8) for i, leaf in enumerate(leaves)]
  return structure.unflatten(drawn)


def mean_loss(ys):
  """Returns a scalar loss that uses the outputs at all steps, so no step's gradient is zero."""
  return jnp.mean(draw(90, *ys.shape) * jnp.sin(ys))
