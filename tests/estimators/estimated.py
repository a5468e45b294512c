"""Problems and references for the tests of estimators."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import make_cell, unroll
from rnn_jax.estimators import bptt
from rnn_jax.types import floats_of

KEY = jax.random.key(7)


def draw(seed, *shape, scale=0.6):
  return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), float)


def problem(name, hidden_size=3, num_steps=5, batch_size=2, input_size=2, **options):
  """Returns (cell, params, xs), with noise in params that start at a constant, such as biases."""
  cell = make_cell(name, hidden_size, **options)
  params = cell.init(jax.random.key(1), input_size)
  leaves, structure = jax.tree.flatten(params)
  moved = [
    leaf + draw(i, *leaf.shape, scale=0.1) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    for i, leaf in enumerate(leaves)
  ]
  return cell, structure.unflatten(moved), draw(99, num_steps, batch_size, input_size, scale=1)


def loss(ys):
  """Returns a scalar in which the error at a step depends on the outputs at other steps."""
  weights = draw(90, *ys.shape)
  return jnp.sum(weights * jnp.sin(ys)) + jnp.mean(jnp.cumsum(ys, 0) ** 2)


def errors_of(cell, params, xs):
  """Returns dL/dy_t [T, B, H]."""
  return jax.jit(lambda p, xs: jax.grad(loss)(unroll(cell, p, xs)[1]))(params, xs)


def exact(cell, params, xs):
  """Returns the gradient by JAX's own differentiation of a Python loop."""

  def value(floats):
    prepared = cell.prepare(
      jax.tree.map(
        lambda new, a: a if new is None else new, floats, params, is_leaf=lambda a: a is None
      )
    )
    carry, ys = cell.initial_carry(xs.shape[1:2], xs.dtype), []
    for x in xs:
      drive = cell.project(prepared, x)
      carry = cell.update(prepared, carry, drive, cell.recur(prepared, carry))
      ys.append(cell.output(prepared, carry, drive))
    return loss(jnp.stack(ys))

  return jax.jit(jax.grad(value))(floats_of(params))


def distance(a, b):
  """Returns ‖a − b‖ / ‖b‖, of two pytrees as vectors."""
  a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (a, b))
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def many(estimator, cell, params, xs, num_keys):
  """Returns the estimates for many keys, leaves [num_keys, ...]."""
  one = jax.vmap(lambda key: estimator(cell, params, xs, loss, key)[1])
  return jax.jit(one)(jax.random.split(KEY, num_keys))


def gradient(rule, cell, params, xs, key=KEY):
  """Returns an estimator's estimate."""
  return jax.jit(lambda params, xs, key: rule(cell, params, xs, loss, key)[1])(params, xs, key)


def truth(cell, params, xs):
  """Returns the gradient by backpropagation through time."""
  return gradient(bptt(), cell, params, xs)


def shares(rule, cell, params, xs, num_lags, key=KEY):
  """Returns an estimator's shares of lags."""
  y_bars = errors_of(cell, params, xs)

  def run(params, xs, y_bars, key):
    return rule.shares(cell, params, xs, y_bars, key, num_lags=num_lags)

  return jax.jit(run)(params, xs, y_bars, key)
