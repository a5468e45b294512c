"""Tests of `carry_gradients` against explicit perturbations and a closed form."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from networks import draw, mean_loss, network

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import carry_gradients

T, B, D, H = 4, 2, 2, 3


def nudged_loss(cells, params, xs, nudges):
  """Returns the loss of a deep network that adds nudges[layer][t] to the carry after step t."""
  for cell, cell_params, nudge in zip(cells, params, nudges, strict=True):
    carry, ys = cell.initial_carry((B,)), []
    prepared = cell.prepare(cell_params)
    for t, x in enumerate(xs):
      drive = cell.project(prepared, x)
      carry = cell.update(prepared, carry, drive, cell.recur(prepared, carry))
      carry = jax.tree.map(lambda a, b, t=t: a + b[t], carry, nudge)
      ys.append(cell.output(prepared, carry, drive))
    xs = jnp.stack(ys)
  return mean_loss(xs)


def test_vectors_are_those_of_explicit_perturbations(x64):
  cells, params = network(["gru", "lstm", "mlstm"], H)
  xs = draw(80, T, B, D)
  nudges = tuple(cell.initial_carry((T, B)) for cell in cells)
  explicit = jax.jit(jax.grad(lambda nudges: nudged_loss(cells, params, xs, nudges)))(nudges)
  found = jax.jit(lambda xs: carry_gradients(cells, params, xs, mean_loss))(xs)
  chex.assert_trees_all_close(found, explicit, rtol=1e-9, atol=1e-14)


def test_entries_below_the_range_of_floats_are_zero():
  cell = make_cell("elman", 1, activation="linear")
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.full((1, 1), 1e-2), "b": jnp.zeros(1)}
  xs = jnp.ones((30, 1, 1))
  (found,) = carry_gradients([cell], [params], xs, lambda ys: ys[-1, 0, 0])
  expected = np.float64(1e-2) ** np.arange(30)[::-1]
  np.testing.assert_allclose(found[11:, 0, 0], expected[11:], rtol=1e-5)
  assert not np.any(found[:10])
  # The forward pass is not affected.
  assert np.isfinite(unroll(cell, params, xs)[1]).all()
