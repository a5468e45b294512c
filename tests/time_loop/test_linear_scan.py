"""Tests that the associative scan equals the loop, with lengths, resets, truncation and reversal.

The tests compare outputs, forward- and reverse-mode derivatives, and gradient norms.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import CELLS, gradient_probe, make_cell, unroll
from rnn_jax.cells import layer_norm, residual, zoneout
from rnn_jax.time_loop import valid_steps
from rnn_jax.time_loop._linear_scan import linear_scan

T, B, D, H = 7, 3, 2, 4

LINEAR = [name for name in CELLS if make_cell(name, H).linear]
RESETS = np.zeros((T, B), bool)
RESETS[[0, 3, 5], [2, 0, 1]] = True
TIMES = {
  "plain": {},
  "forward": {"lengths": np.array([7, 0, 4]), "resets": RESETS, "truncation": 3},
  "mask": {
    "mask": ~RESETS & (np.arange(T)[:, None] != [1, 2, 6]),
    "resets": RESETS,
    "truncation": 2,
  },
  "all": {"lengths": np.array([7, 2, 5]), "resets": RESETS, "truncation": 2, "reverse": True},
}


def draw(seed, like):
  random = np.random.default_rng(seed)

  def leaf(a):
    values = 0.7 * random.standard_normal((2, *a.shape))
    complex_ = jnp.issubdtype(a.dtype, jnp.complexfloating)
    return jnp.asarray(values[0] + 1j * values[1] if complex_ else values[0], a.dtype)

  return jax.tree.map(leaf, like)


def problem(cell, num_steps=T, input_size=D):
  params = jax.jit(cell.init, static_argnums=1)(jax.random.key(0), input_size)
  xs = draw(1, jnp.zeros((num_steps, B, input_size)))
  return params, xs, draw(2, cell.initial_carry((B,)))


def score(tree):
  """Returns a scalar loss that gives each entry of the tree a different weight."""
  leaves = jax.tree.leaves(tree)
  return sum(jnp.vdot(draw(20 + i, a), jnp.sin(a)).real for i, a in enumerate(leaves))


def everything(cell, given, method, **time):
  """Returns ((loss, (final carry, ys)), (gradients, gradient norms))."""

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
  def loss(given, probe):
    result = unroll(cell, *given, method=method, probe=probe, **time)
    return score(result), result

  return loss(given, gradient_probe(cell, len(given[1]), B))


@pytest.mark.parametrize(
  ("name", "which"), [*(("lru", which) for which in TIMES), ("rg_lru", "all")]
)
def test_associative_scan_equals_the_loop(x64, name, which):
  # The contract suite compares every linear cell with a loop (`rnn_jax.testing.check_linear`).
  cell, time = make_cell(name, H), TIMES[which]
  given = problem(cell)
  valid = valid_steps(T, time.get("lengths"), time.get("mask"))
  if valid is not None:
    given = (given[0], np.where(valid[..., None], given[1], np.nan), given[2])
  chex.assert_trees_all_close(
    everything(cell, given, "associative", **time),
    everything(cell, given, "loop", **time),
    rtol=1e-10,
    atol=1e-12,
  )


@pytest.mark.parametrize("name", ["lru", "rg_lru"])  # whose `init` makes some units decay slowly
def test_long_sequences_differ_by_rounding_only(name):
  # The test runs in float32, where rounding errors grow with the number of terms that a slowly
  # decaying unit sums up, here up to 4096.
  cell = make_cell(name, H)
  given = problem(cell, num_steps=4096)
  at_once, looped = (
    jax.device_get(everything(cell, given, method)) for method in ("associative", "loop")
  )
  for ours, theirs in zip(jax.tree.leaves(at_once), jax.tree.leaves(looped), strict=True):
    scale = np.max(np.abs(theirs))
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=3e-5)


def test_forward_mode_equals_that_of_the_loop(x64):
  cell = make_cell("lru", H)
  given = problem(cell)

  def tangents(**time):
    run = functools.partial(unroll, cell, **time)
    return jax.jit(lambda: jax.jvp(run, given, draw(5, given)))()

  chex.assert_trees_all_close(
    tangents(method="associative"), tangents(forward_mode=True), rtol=1e-10, atol=1e-12
  )


def test_wrappers_keep_a_linear_cell_linear_unless_they_change_its_carry(x64):
  cell = residual(layer_norm(make_cell("mingru", D)))
  given = problem(cell)
  chex.assert_trees_all_close(
    everything(cell, given, "associative"), everything(cell, given, "loop"), rtol=1e-10, atol=1e-12
  )
  assert zoneout(make_cell("mingru", D), 0.1).linear is None


def test_scans_of_constants():
  ones = jnp.ones((5, 1))
  np.testing.assert_array_equal(linear_scan(ones, ones, None)[:, 0], [1, 2, 3, 4, 5])
  np.testing.assert_array_equal(linear_scan(2 * ones, ones, None, True)[:, 0], [31, 15, 7, 3, 1])


def test_the_program_has_no_loop_over_time():
  cell = make_cell("rg_lru", H)
  given = problem(cell, num_steps=64)
  run = jax.jit(functools.partial(unroll, cell, method="associative"))
  assert "while" not in run.lower(*given).as_text()


@pytest.mark.parametrize("name", [name for name in CELLS if name not in LINEAR])
def test_nonlinear_cells_are_refused(name):
  cell = make_cell(name, H)
  with pytest.raises(ValueError, match="method 'associative' is for cells that are linear"):
    jax.eval_shape(
      lambda key: unroll(cell, cell.init(key, D), jnp.ones((T, B, D)), method="associative"),
      jax.random.key(0),
    )


@pytest.mark.parametrize(
  ("time", "message"),
  [
    ({"method": "parallel"}, "Unknown method 'parallel'.*associative, loop"),
    ({"remat": "sqrt"}, "remat must be 'none' with method 'associative', got 'sqrt'"),
    ({"clip_carry": 1.0}, "clip_carry must be None with method 'associative', got 1.0"),
  ],
)
def test_unsupported_options_are_refused(time, message):
  cell = make_cell("lru", H)
  with pytest.raises(ValueError, match=message):
    unroll(cell, *problem(cell), **{"method": "associative", **time})
