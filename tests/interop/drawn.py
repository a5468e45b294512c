"""Random weights, shared by the tests of the conversions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import make_cell


def drawn(shapes, seed):
  """Returns a pytree of normal random values with the shapes and dtypes of the leaves of `shapes`.

  Biases are random, too, because zeros would hide the terms that they multiply.
  """
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda a: jnp.asarray(0.7 * random.standard_normal(a.shape), a.dtype), shapes)


def params_of(name, input_size, hidden_size, seed=1, **options):
  """Returns random params for the cell `make_cell(name, hidden_size, **options)`."""
  cell = make_cell(name, hidden_size, **options)
  return drawn(jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size)), seed)
