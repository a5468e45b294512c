"""Small networks and a reference for `unroll`, shared by the tests of its arguments."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import gradient_probe, make_cell, unroll
from rnn_jax.types import floats_of, with_floats

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-12)

T, B, D, H = 7, 2, 2, 3

# A GRU's carry is a single array, which is also the output. An LSTM's carry is a pair of arrays.
CARRIES = ("gru", "lstm")

LENGTHS = np.array([7, 4])
RESETS = np.zeros((T, B), bool)
# The resets are in mid-sequence, at the first step, and past the end of a sequence.
RESETS[[3, 0, 5], [0, 1, 1]] = True
# The mask skips the first step, two successive steps, and the last step.
MASK = np.ones((T, B), bool)
MASK[[0, 4, 5, 2, 6], [0, 0, 0, 1, 1]] = False


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape), float)


def problem(name, num_steps=T, batch_size=B):
  """Returns (cell, (params, xs, carry, probe))."""
  cell = make_cell(name, H)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  params = {key: draw(i, *leaf.shape) for i, (key, leaf) in enumerate(shapes.items())}
  leaves, structure = jax.tree.flatten(cell.initial_carry((batch_size,)))
  carry = structure.unflatten(
    [draw(5 + i, *a.shape).astype(a.dtype) if is_float(a) else a for i, a in enumerate(leaves)]
  )
  xs = draw(9, num_steps, batch_size, D)
  return cell, (params, xs, carry, gradient_probe(cell, num_steps, batch_size))


def is_float(a):
  return jnp.issubdtype(a.dtype, jnp.inexact)


def score(result):
  """Returns a scalar loss that gives each entry of outputs and final carry a different weight.

  Only the real part of a complex entry counts.
  """
  leaves = jax.tree.leaves(floats_of(result))
  return sum(jnp.vdot(draw(20 + i, *a.shape), a.real) for i, a in enumerate(leaves))


def everything(run):
  """Returns a jitted function from the arguments of `run` to (gradients, result of `run`).

  `run` maps (params, xs, carry, probe) to (final carry, ys). The gradients are those of the
  result's score with respect to all four arguments. The probe's gradient is the norms of dL/dh_t.
  """

  def loss(*arrays):
    result = run(*arrays)
    return score(result), result

  def gradients(params, xs, carry, probe):
    def of_floats(params, xs, floats, probe):
      return loss(params, xs, with_floats(floats, carry), probe)

    grad = jax.grad(of_floats, argnums=(0, 1, 2, 3), has_aux=True)
    return grad(params, xs, floats_of(carry), probe)

  return jax.jit(gradients)


def together(cell, **time):
  def run(params, xs, carry, probe):
    return unroll(cell, params, xs, carry, probe=probe, **time)

  return everything(run)


def apart(cell, *, lengths=None, mask=None, resets=None, reverse=False, **time):
  """Returns a reference for `together` that passes none of the named arguments to `unroll`.

  It removes the skipped steps from each sequence, splits the sequence at its resets, and unrolls
  each piece alone, as a batch of one.
  """

  def run(params, xs, carry, probe):
    num_steps, batch_size = xs.shape[:2]
    ys = jnp.zeros((num_steps, batch_size, H))
    finals = []
    for b in range(batch_size):
      order = np.arange(num_steps if lengths is None else lengths[b])
      order = order if mask is None else order[mask[order, b]]
      order = order[::-1] if reverse else order
      new = np.zeros(len(order), bool) if resets is None else resets[order, b]
      final = jax.tree.map(lambda a, b=b: a[b : b + 1], carry)
      for piece in np.split(order, np.flatnonzero(new)):
        if len(piece) and resets is not None and resets[piece[0], b]:
          final = jax.tree.map(jnp.zeros_like, final)
        if len(piece):
          slots = jax.tree.map(lambda a, at=piece, b=b: a[at, b : b + 1], probe)
          final, y = unroll(cell, params, xs[piece, b : b + 1], final, probe=slots, **time)
          ys = ys.at[piece, b].set(y[:, 0])
      finals.append(final)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *finals), ys

  return everything(run)
