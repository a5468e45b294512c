"""Fixed and slow points against closed forms, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, large_params
from scipy.optimize import brentq

from rnn_jax import make_cell, unroll
from rnn_jax.cells import LSTMCarry, stack
from rnn_jax.gradient_flow import fixed_points, visited_carries
from rnn_jax.interop import cell_from_step

# optax's L-BFGS mixes dtypes of integers.
pytestmark = pytest.mark.usefixtures("optax_promotion")


def scalar(w, **options):
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.full((1, 1), w), "b": jnp.zeros(1)}
  return make_cell("elman", 1, **options), params


def test_a_linear_cell_has_one_fixed_point_in_closed_form(x64):
  cell, params = make_cell("elman", 4, activation="linear"), {}
  params = {"w_x": draw(0, 2, 4), "w_h": draw(1, 4, 4), "b": draw(2, 4)}
  x = draw(3, 2)
  found = fixed_points(cell, params, x, draw(4, 5, 4))
  w = np.asarray(params["w_h"])
  expected = np.linalg.solve((np.eye(4) - w).T, np.asarray(x @ params["w_x"] + params["b"]))
  np.testing.assert_allclose(found.points, expected[None], rtol=1e-9)
  np.testing.assert_array_equal(found.counts, [5])
  eigenvalues = np.linalg.eigvals(w)
  np.testing.assert_allclose(np.sort(found.eigenvalues[0]), np.sort(eigenvalues), rtol=1e-9)
  assert np.all(np.diff(np.abs(found.eigenvalues[0])) < 1e-12)
  assert found.num_unstable[0] == np.sum(np.abs(eigenvalues) > 1)


def test_a_bistable_unit_has_two_attractors_and_an_unstable_point_between_them(x64):
  cell, params = scalar(2.0)
  found = fixed_points(cell, params, jnp.zeros(1), jnp.linspace(-1.5, 1.5, 21)[:, None])
  order = np.argsort(found.points[:, 0])
  h = brentq(lambda h: np.tanh(2 * h) - h, 0.5, 1)
  assert h == pytest.approx(0.9575, abs=1e-4)
  np.testing.assert_allclose(found.points[order, 0], [-h, 0, h], atol=1e-12)
  slope = 2 * (1 - h**2)
  np.testing.assert_allclose(found.eigenvalues[order, 0], [slope, 2, slope], rtol=1e-9)
  np.testing.assert_array_equal(found.num_unstable[order], [0, 1, 0])
  assert found.counts.sum() == 21
  assert np.all(found.speeds < 1e-28)


def test_input_moves_the_points(x64):
  cell, params = scalar(2.0)
  found = fixed_points(cell, params, jnp.full(1, 0.2), jnp.linspace(-1.5, 1.5, 21)[:, None])
  roots = [brentq(lambda h: np.tanh(2 * h + 0.2) - h, *ends) for ends in ((-1, -0.7), (-0.7, 0.1))]
  np.testing.assert_allclose(np.sort(found.points[:, 0])[:2], roots, rtol=1e-9)


def test_gru_at_zero_is_a_saddle_with_the_eigenvalues_of_its_linearization(x64):
  cell = make_cell("gru", 3)
  axes = np.random.default_rng(0).standard_normal((3, 3))
  w_n = axes @ np.diag([2.5, 0.4, -0.8]) @ np.linalg.inv(axes)
  params = large_params(cell, 2) | {"b": jnp.zeros(9)}
  params["w_h"] = params["w_h"].at[:, 6:].set(w_n)
  found = fixed_points(cell, params, jnp.zeros(2), 0.01 * draw(0, 4, 3))
  at = int(np.argmin(np.abs(found.points).max(axis=1)))
  np.testing.assert_allclose(found.points[at], 0, atol=1e-12)
  expected = 0.5 + np.array([2.5, 0.4, -0.8]) / 4
  np.testing.assert_allclose(found.eigenvalues[at], expected, rtol=1e-8)
  assert found.num_unstable[at] == 1


def test_lstm_has_its_points_on_the_joint_carry(x64):
  cell = make_cell("lstm", 2)
  axes = np.random.default_rng(0).standard_normal((2, 2))
  w_g = axes @ np.diag([0.9, -0.8]) @ np.linalg.inv(axes)
  params = large_params(cell, 1) | {"b": jnp.zeros(8).at[2:4].set(1.0)}
  params["w_h"] = params["w_h"].at[:, 4:6].set(w_g)
  starts = LSTMCarry(0.01 * draw(0, 3, 2), 0.01 * draw(1, 3, 2))
  found = fixed_points(cell, params, jnp.zeros(1), starts)
  np.testing.assert_allclose(found.points, np.zeros((1, 4)), atol=1e-12)
  forget = 1 / (1 + np.exp(-1))
  expected = [forget + 0.9 / 4, forget - 0.8 / 4, 0, 0]
  np.testing.assert_allclose(found.eigenvalues[0], expected, atol=1e-8)
  assert found.num_unstable[0] == 0


def test_the_ghost_of_a_saddle_node_is_a_slow_point(x64):
  # h' = h + h² + c has no fixed point for c > 0. q = (h² + c)²/2 is smallest at h = 0, where q is
  # c²/2 and the slope is 1.
  c = 0.01
  cell = cell_from_step(lambda p, h, x: h + h**2 + c, lambda key, size: (), jnp.zeros(1))
  found = fixed_points(cell, (), jnp.zeros(1), jnp.linspace(-0.3, 0.3, 5)[:, None])
  np.testing.assert_allclose(found.points, [[0]], atol=1e-4)
  np.testing.assert_allclose(found.speeds, [c**2 / 2], rtol=1e-6)
  np.testing.assert_allclose(found.eigenvalues, [[1]], atol=1e-3)


def test_tokens_and_a_stack_of_cells_have_points_in_float32():
  cells = [make_cell("elman", 3), make_cell("elman", 2)]
  cell = stack(cells)
  params = cell.init(jax.random.key(0), 5)
  starts = cell.initial_carry((2,))
  found = fixed_points(cell, params, jnp.int32(3), starts)
  carry, _ = jax.jit(lambda xs: unroll(cell, params, xs))(jnp.full((300, 2), 3))
  expected = np.concatenate([carry[0][0], carry[1][0]])
  np.testing.assert_allclose(found.points, expected[None], atol=1e-5)
  np.testing.assert_array_equal(found.counts, [2])


def test_points_closer_than_the_distance_are_one_and_lost_searches_none(x64):
  cell, params = scalar(1.0, activation="linear")  # h' = h: every h is a fixed point
  starts = jnp.asarray([[0.0], [0.05], [0.2], [jnp.nan]])
  found = fixed_points(cell, params, jnp.zeros(1), starts, distance=0.1)
  np.testing.assert_array_equal(found.points, [[0.0], [0.2]])
  np.testing.assert_array_equal(found.counts, [2, 1])
  nothing = fixed_points(cell, params, jnp.zeros(1), jnp.full((4, 1), jnp.nan))
  assert nothing.points.shape == (0, 1) and nothing.eigenvalues.shape == (0, 1)


def test_visited_carries_are_on_the_trajectory_up_to_the_noise(x64):
  cell = make_cell("lstm", 3)
  params, xs = large_params(cell, 2), draw(5, 6, 2, 2)
  key = jax.random.key(0)
  exact = visited_carries(cell, params, xs, key=key, num_carries=40)
  _, ys = unroll(cell, params, xs)
  visited = np.concatenate([np.zeros((2, 3)), ys[:-1].reshape(-1, 3)])
  gaps = np.abs(np.asarray(exact.hidden)[:, None] - visited).max(axis=-1)
  assert np.all(gaps.min(axis=1) < 1e-12)
  assert len(np.unique(gaps.argmin(axis=1))) > 6
  noisy = visited_carries(cell, params, xs, key=key, num_carries=40, noise=0.1)
  noise = np.concatenate([noisy.hidden - exact.hidden, noisy.cell - exact.cell])
  assert np.std(noise) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
  ("wrong", "error", "message"),
  [
    ({"cell": "gru"}, TypeError, "cell must be a Cell, got 'gru'"),
    ({"params": {}}, ValueError, "params must have the structure"),
    ({"x": None}, TypeError, "x must be an array of floats or integers, got None"),
    (
      {"starts": jnp.zeros((4, 2))},
      ValueError,
      r"starts must be floats \[4, 1\], got",
    ),
    ({"starts": jnp.zeros(())}, ValueError, r"starts must be floats \[1, 1\], got float32\[\]"),
    ({"num_steps": 0}, ValueError, "num_steps must be at least 1, got 0"),
    ({"distance": -1}, ValueError, "distance must be at least 0, got -1"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_are_named(wrong, error, message):
  cell, params = scalar(2.0)
  arguments = {"cell": cell, "params": params, "x": jnp.zeros(1), "starts": jnp.zeros((4, 1))}
  with pytest.raises(error, match=message):
    fixed_points(**{**arguments, **wrong})


@pytest.mark.parametrize(
  ("wrong", "error", "message"),
  [
    ({"key": 3}, TypeError, "key must be a random key"),
    ({"num_carries": 0}, ValueError, "num_carries must be at least 1, got 0"),
    ({"noise": -1.0}, ValueError, "noise must be at least 0, got -1"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_of_visited_carries_are_named(wrong, error, message):
  cell, params = scalar(2.0)
  with pytest.raises(error, match=message):
    visited_carries(cell, params, jnp.zeros((3, 2, 1)), **{"key": jax.random.key(0), **wrong})
