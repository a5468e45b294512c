"""Functions that compare a cell with a NumPy reference, which follows the paper's equations."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import step, unroll

T, B, D, H = 6, 2, 3, 4


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def blocks(params, num_gates):
  """Returns one triple (W, U, b) per gate, in the order of the gates in w_x, w_h and b."""
  split = (np.split(params[name], num_gates, axis=-1) for name in ("w_x", "w_h", "b"))
  return list(zip(*split, strict=True))


def draw(random, like, scale):
  def leaf(a):
    values = scale * random.standard_normal(a.shape)
    if np.issubdtype(a.dtype, np.complexfloating):
      values = values + 1j * scale * random.standard_normal(a.shape)
    return values.astype(a.dtype) if np.issubdtype(a.dtype, np.inexact) else np.zeros_like(a)

  return jax.tree.map(leaf, like)


def check(cell, reference, input_size=D, seed=1, scale=0.7, params=None, rtol=1e-11):
  """Checks outputs, final carry and step Jacobian of a cell against a reference, in float64.

  Cell and reference run T steps with the same random params, initial carry and inputs.

  Args:
    cell: the cell under test.
    reference: NumPy function (params, carry, x) -> (new carry, y), with params like those of
      `cell.init`.
    input_size: D, the width of x.
    seed: seed of all random values.
    scale: standard deviation of the random params.
    params: NumPy params to use in place of random ones.
    rtol: relative tolerance for outputs and the final carry.
  """
  random = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size, jnp.float64))
  params = draw(random, shapes, scale) if params is None else params
  carry = draw(random, cell.initial_carry((B,), jnp.float64), 1)
  xs = random.standard_normal((T, B, input_size))
  ours = jax.tree.map(jnp.asarray, params)
  final, ys = jax.jit(lambda *args: unroll(cell, *args))(ours, xs, carry)

  _check_jacobian(cell, reference, params, carry, xs[0])
  for t, x in enumerate(xs):
    carry, y = reference(params, carry, x)
    np.testing.assert_allclose(ys[t], y, rtol=rtol, atol=1e-13)
  chex.assert_trees_all_close(final, carry, rtol=rtol, atol=1e-13)


def _check_jacobian(cell, reference, params, carry, x):
  """Checks a step's derivative along a random direction of the whole carry.

  The cell's forward-mode derivative must match central differences of the reference.
  """
  ours = jax.tree.map(jnp.asarray, params)
  random = np.random.default_rng(7)
  direction = draw(random, carry, 1)

  @jax.jit
  def along(carry):
    prepared = cell.prepare(ours)
    return step(cell, prepared, carry, cell.project(prepared, jnp.asarray(x)))

  tangents = jax.tree.map(
    lambda a: a if np.issubdtype(a.dtype, np.inexact) else np.zeros(a.shape, jax.dtypes.float0),
    direction,
  )
  _, ours_dot = jax.jvp(along, (carry,), (tangents,))
  size = 1e-6

  def moved(sign):
    return jax.tree.map(lambda a, d: a + sign * size * d if d.any() else a, carry, direction)

  high, low = (reference(params, moved(sign), x)[0] for sign in (1, -1))
  theirs_dot = jax.tree.map(lambda a, b: (a - b) / (2 * size), high, low)
  pairs = zip(jax.tree.leaves(ours_dot), jax.tree.leaves(theirs_dot), strict=True)
  for ours_leaf, theirs_leaf in pairs:
    if ours_leaf.dtype != jax.dtypes.float0:
      np.testing.assert_allclose(ours_leaf, theirs_leaf, rtol=1e-6, atol=1e-8)


def jacobian(cell, params, h, x):
  """Returns the step Jacobian ∂h'/∂h, with entry [i, j] = ∂h'_j/∂h_i, of a carry h of one array."""

  @jax.jit
  @jax.jacfwd
  def columns(h):
    prepared = cell.prepare(jax.tree.map(jnp.asarray, params))
    return step(cell, prepared, h, cell.project(prepared, jnp.asarray(x)))

  return np.asarray(columns(jnp.asarray(h))).T
