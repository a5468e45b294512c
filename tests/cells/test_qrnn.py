"""The quasi-recurrent network: its equation, its convolution, associative scan and errors."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest
from golden import B, D, H, T, check, draw, sigmoid

from rnn_jax import make_cell, unroll
from rnn_jax.cells import QRNNCarry

POOLINGS = ("f", "fo", "ifo")


def pooled(pooling, a, c):
  """Returns (c', y, o) from the pre-activations a; o is None without an output gate."""
  z, f, *rest = np.split(a, 1 + len(pooling), axis=-1)
  f, rest = sigmoid(f), [sigmoid(gate) for gate in rest]
  new = f * c + (rest[1] if pooling == "ifo" else 1 - f) * np.tanh(z)
  return (new, rest[0] * new, rest[0]) if rest else (new, new, None)


def with_window_one(pooling, params, c, x):
  return pooled(pooling, x @ params["w_x"] + params["b"], c)[:2]


def with_window_two(pooling, params, carry, x):
  w, v = np.split(params["w_x"], 2, axis=1)
  c, y, o = pooled(pooling, x @ w + carry.previous + params["b"], carry.cell)
  return QRNNCarry(c, x @ v, o), y


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cell_matches_its_equation(x64, pooling):
  one = make_cell("qrnn", H, window=1, pooling=pooling)
  check(one, lambda *args: with_window_one(pooling, *args))
  assert one.output_is_carry == (pooling == "f")
  check(make_cell("qrnn", H, pooling=pooling), lambda *args: with_window_two(pooling, *args))


def problem(**options):
  cell = make_cell("qrnn", H, **options)
  random = np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.7)
  return cell, params, random.standard_normal((T, B, D))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_associative_scan_with_window_one_equals_the_loop(x64, pooling):
  cell, params, xs = problem(window=1, pooling=pooling)
  loop, scan = (
    jax.jit(lambda m=method: unroll(cell, params, xs, method=m))()
    for method in ("loop", "associative")
  )
  chex.assert_trees_all_close(loop, scan, rtol=1e-12)


def test_a_window_of_two_is_a_convolution_of_the_inputs(x64):
  # It equals a window of one that reads each input together with the one before.
  two, params, xs = problem()
  w, v = np.split(params["w_x"], 2, axis=1)
  pairs = np.concatenate([xs, np.concatenate([np.zeros_like(xs[:1]), xs[:-1]])], axis=-1)
  one = make_cell("qrnn", H, window=1)
  _, found = jax.jit(lambda: unroll(two, params, xs))()
  _, expected = jax.jit(
    lambda: unroll(one, {"w_x": np.concatenate([w, v]), "b": params["b"]}, pairs)
  )()
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_gradient_decays_by_the_forget_gates_alone(x64):
  cell, params, xs = problem()

  @jax.jit
  @jax.jacfwd
  def slope(scale):
    start = jax.tree.map(lambda a: a * 0 + scale, cell.initial_carry((B,)))
    start = start._replace(previous=start.previous * 0)
    return unroll(cell, params, xs, start, forward_mode=True)[0].cell

  w, v = np.split(params["w_x"], 2, axis=1)
  before = np.concatenate([np.zeros_like(xs[:1]), xs[:-1]])
  forget = sigmoid(np.split(xs @ w + before @ v + params["b"], 3, axis=-1)[1])
  np.testing.assert_allclose(slope(1.0), np.prod(forget, axis=0), rtol=1e-12)


@pytest.mark.parametrize(("window", "pooling", "blocks"), [(1, "f", 2), (2, "ifo", 4)])
def test_initial_params_are_uniform_in_the_bounds_of_the_authors(window, pooling, blocks):
  cell = make_cell("qrnn", 400, window=window, pooling=pooling)
  params = cell.init(jax.random.key(0), D)
  chex.assert_shape([params["w_x"], params["b"]], [(D, window * blocks * 400), (blocks * 400,)])
  for a in params.values():
    np.testing.assert_allclose(np.abs(a).max() ** 2, 1 / (window * D), rtol=0.01)
    np.testing.assert_allclose(np.var(a), 1 / (3 * window * D), rtol=0.1)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"window": 3}, "window must be 1 or 2, got 3."),
    ({"window": 0}, "window must be at least 1, got 0."),
    ({"pooling": "of"}, "Unknown pooling 'of'; did you mean 'fo'?"),
  ],
)
def test_invalid_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message[:30]):
    make_cell("qrnn", H, **options)
