"""Newton's method in time, against closed forms, a NumPy loop and the sequential trajectory."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, large_carry, large_params, network

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import newton_in_time

T, B, D, H = 24, 2, 2, 3
XS = 0.5 * np.random.default_rng(3).standard_normal((T, B, D))
close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)


@functools.partial(jax.jit, static_argnames=("cell", "method", "tolerance"))
def converge(cell, params, xs, carry=None, tolerance=1e-10, method="loop"):
  carries = None if carry is None else [carry]
  options = {"carries": carries, "tolerance": tolerance, "method": method}
  return newton_in_time([cell], [params], xs, **options)[0]


def tanh_params(gain, size=H, seed=0):
  random = np.random.default_rng(seed)
  w_h = gain / np.sqrt(size) * random.standard_normal((size, size))
  return {"w_x": random.standard_normal((D, size)), "w_h": w_h, "b": np.full(size, 0.1)}


def by_hand(params, xs):
  """Returns Newton's guesses [T + 1, T, N] for one sequence xs [T, D] through a tanh cell."""
  drives = xs @ params["w_x"] + params["b"]
  zero = np.zeros(params["b"].shape)
  guess = np.zeros(drives.shape)
  guesses = [guess]
  for _ in range(len(xs)):
    shifted = np.concatenate([zero[None], guess[:-1]])
    images = np.tanh(drives + shifted @ params["w_h"])
    new = []
    for t, image in enumerate(images):
      change = (new[-1] if t else zero) - shifted[t]
      new.append(image + (1 - image**2) * (change @ params["w_h"]))
    guess = np.stack(new)
    guesses.append(guess)
  return np.stack(guesses)


@pytest.mark.parametrize("method", ["loop", "associative"])
def test_residuals_and_errors_are_those_of_a_numpy_loop(x64, method):
  cell, params = make_cell("elman", H), tanh_params(0.9)
  found = converge(cell, params, XS, method=method)
  _, exact = unroll(cell, jax.tree.map(jnp.asarray, params), jnp.asarray(XS))
  exact = np.asarray(exact)
  for b in range(B):
    guesses = by_hand(params, XS[:, b])
    scale = np.abs(exact[:, b]).max()
    errors = np.abs(guesses - exact[:, b]).max(axis=(1, 2)) / scale
    shifted = np.concatenate([np.zeros_like(guesses[:, :1]), guesses[:, :-1]], axis=1)
    images = np.tanh(XS[:, b] @ params["w_x"] + params["b"] + shifted @ params["w_h"])
    residuals = np.abs(images - guesses).max(axis=(1, 2)) / scale
    taken = int(found.iterations[b])
    assert taken == np.argmax(residuals <= 1e-10) < T / 2
    close(found.residuals[: taken + 1, b], residuals[: taken + 1])
    close(found.errors[: taken + 1, b], errors[: taken + 1])
    np.testing.assert_array_equal(found.residuals[taken:, b], found.residuals[taken, b])
    # Quadratic convergence: each of the last errors is at most about the square of the previous
    # one.
    late = errors[:taken][errors[:taken] < 0.1]
    assert len(late) >= 2
    assert np.all(late[1:] < 2 * late[:-1] ** 2)


def test_first_guess_after_two_steps_in_closed_form(x64):
  w, x = 0.7, np.array([0.4, -0.3])
  params = {"w_x": np.ones((1, 1)), "w_h": np.full((1, 1), w), "b": np.zeros(1)}
  found = converge(make_cell("elman", 1), params, x[:, None, None], tolerance=1e-3)
  first, exact = np.tanh(x[0]), np.tanh(x[1] + w * np.tanh(x[0]))
  second = np.tanh(x[1]) + (1 - np.tanh(x[1]) ** 2) * w * first
  scale = max(abs(first), abs(exact))
  close(found.errors[:2, 0], [scale / scale, abs(second - exact) / scale])
  close(found.residuals[:2, 0], [first / scale, abs(second - exact) / scale])
  assert found.iterations[0] == 2


@pytest.mark.parametrize("method", ["loop", "associative"])
@pytest.mark.parametrize(
  ("name", "options"), [("elman", {"activation": "linear"}), ("lru", {}), ("mingru", {})]
)
def test_a_cell_linear_in_its_carry_takes_one_iteration(x64, name, options, method):
  cell = make_cell(name, H, **options)
  params = large_params(cell, D)
  carry = None if name == "lru" else large_carry(cell, B)  # lru's carry is complex
  found = converge(cell, params, XS, carry, method=method)
  np.testing.assert_array_equal(found.iterations, 1)
  assert np.all(found.errors[0] > 1e-3)
  assert np.all(found.errors[1:] < 1e-12)


def test_a_chaotic_network_takes_almost_one_iteration_per_step_and_never_more(x64):
  cell, params = make_cell("elman", 30), tanh_params(4.0, 30)
  xs = 0.1 * XS
  found = converge(cell, params, xs)
  assert np.all(found.iterations > 2 * T // 3)
  assert np.all(found.iterations <= T)
  assert np.all(found.errors[-1] < 1e-8)
  assert np.all(found.errors[T // 2] > 0.1)
  quick = converge(cell, tanh_params(0.4, 30), xs)
  assert np.all(quick.iterations <= 5)


def test_each_iteration_makes_one_more_step_exact(x64):
  cell, params = make_cell("elman", 30), tanh_params(4.0, 30)
  whole = converge(cell, params, XS)
  for steps in (1, 2, 5):
    part = converge(cell, params, XS[:steps])
    assert np.all(part.iterations <= steps)
    assert np.all(part.errors[-1] < 1e-12)
  assert np.all(whole.errors[5] > 1e-3)


@pytest.mark.parametrize("name", ["gru", "lstm", "lru", "clockwork"])
def test_methods_agree_and_find_the_sequential_trajectory_of_the_joint_carry(x64, name):
  cell = make_cell(name, 4)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  params = {key: draw(i, *shapes[key].shape, scale=0.5) for i, key in enumerate(sorted(shapes))}
  loop, parallel = (converge(cell, params, XS, method=m) for m in ("loop", "associative"))
  np.testing.assert_array_equal(loop.iterations, parallel.iterations)
  close(loop.errors, parallel.errors, atol=1e-11)
  assert np.all(loop.errors[-1] < 1e-10)
  assert np.all(loop.iterations <= 8)


def test_upper_layers_read_the_sequential_outputs_of_the_layer_below(x64):
  cells, params = network(["gru", "lstm"], H)
  both = jax.jit(lambda xs: newton_in_time(cells, params, xs, tolerance=1e-10))(XS)
  _, ys = unroll(cells[0], params[0], jnp.asarray(XS))
  close(both[1].errors, converge(cells[1], params[1], ys).errors, atol=1e-11)


def test_an_example_does_not_depend_on_the_rest_of_the_batch(x64):
  cell, params = make_cell("elman", H), tanh_params(2.0)
  slow, quick = XS[:, :1], 1e-3 * XS[:, 1:]
  together = converge(cell, params, np.concatenate([slow, quick], axis=1))
  assert together.iterations[0] != together.iterations[1]
  for b, xs in enumerate((slow, quick)):
    alone = converge(cell, params, xs)
    assert alone.iterations[0] == together.iterations[b]
    close(alone.errors[:, 0], together.errors[:, b], atol=1e-14)


def test_a_trajectory_of_zeros_takes_no_iteration_and_one_of_nan_all(x64):
  cell, params = make_cell("elman", H), tanh_params(1.0)
  xs = np.zeros((T, 2, D))
  xs[3, 1] = np.nan
  found = converge(cell, params | {"b": np.zeros(H)}, xs)
  np.testing.assert_array_equal(found.iterations, [0, T])
  np.testing.assert_array_equal(found.errors[:, 0], 0)
  assert np.all(np.isnan(found.residuals[:, 1]))


def test_a_trajectory_that_overflows_takes_all_iterations(x64):
  cell = make_cell("elman", 1, activation="linear")
  params = {"w_x": np.ones((1, 1)), "w_h": np.full((1, 1), 1e200), "b": np.zeros(1)}
  found = converge(cell, params, np.ones((T, 1, 1)))
  np.testing.assert_array_equal(found.iterations, [T])
  assert np.all(np.isnan(found.residuals))


@pytest.mark.parametrize("method", ["loop", "associative"])
def test_products_of_jacobians_above_the_float_range_do_not_stop_it(method):
  # At the initial guess J = W, with a spectral radius near 8: its product over T steps is above
  # 10^100, and the float32 range ends at 10^38.
  steps = 120
  cell, params = make_cell("elman", 30), tanh_params(8.0, 30)
  params = jax.tree.map(jnp.float32, params)
  xs = jax.random.normal(jax.random.key(0), (steps, 1, D))
  found = converge(cell, params, xs, tolerance=1e-5, method=method)
  assert np.all(found.residuals[-1] <= 1e-5)
  assert np.all(found.iterations <= steps)


@pytest.mark.parametrize(
  ("options", "error", "message"),
  [
    ({"tolerance": 0}, ValueError, "tolerance must be greater than 0, got 0"),
    ({"method": "scan"}, ValueError, "Unknown method 'scan'.*associative, loop"),
    ({"carries": [draw(0, H)]}, ValueError, "carry must be float"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_options_are_named(options, error, message):
  cell = make_cell("elman", H)
  with pytest.raises(error, match=message):
    params = jax.tree.map(jnp.float32, tanh_params(1.0))
    newton_in_time([cell], [params], jnp.float32(XS), **options)
