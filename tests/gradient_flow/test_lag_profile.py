"""The lag profile equals the gradient probe's norms in the float range, and is right beyond it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, network

from rnn_jax import gradient_probe, make_cell, unroll
from rnn_jax.gradient_flow import lag_profile

T, B, D, H = 6, 2, 2, 3


def log10(x):
  with np.errstate(divide="ignore"):
    return np.log10(x)


def probed_profile(cells, params, xs, loss):
  """Computes the last step's lag profile from `gradient_probe`; the lag is on the first axis."""

  def last_loss(probes):
    ys = xs
    for cell, cell_params, probe in zip(cells, params, probes, strict=True):
      _, ys = unroll(cell, cell_params, ys, probe=probe)
    return jnp.sum(loss(ys[-1]))

  probes = [gradient_probe(cell, *xs.shape[:2]) for cell in cells]
  return jax.tree.map(lambda norm: log10(norm[::-1]), jax.jit(jax.grad(last_loss))(probes))


def weighted(y):
  return jnp.sum(draw(90, *y.shape) * jnp.sin(y), axis=-1)


# Networks of one to three layers, with cells of the same kind or of different kinds.
@pytest.mark.parametrize(
  "names",
  [["lru"], ["lstm", "gru"], ["gru", "lru", "elman"], ["lstm", "lstm", "lstm"]],
  ids="-".join,
)
def test_profile_is_the_log_of_the_probes_norms(x64, names):
  cells, params = network(names, H)
  xs = draw(80, T, B, D)
  got = jax.jit(lambda xs: lag_profile(cells, params, xs, weighted))(xs)
  expected = probed_profile(cells, params, xs, weighted)
  assert jax.tree.structure(got) == jax.tree.structure(tuple(expected))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_profile_at_a_position_equals_that_of_the_sequence_up_to_it(x64):
  cells, params = network(["lstm", "gru"], H)
  xs, positions = draw(80, T, B, D), [2, -1, 0]
  weights = draw(91, len(positions), B, H)

  @jax.jit
  def profile(xs):
    return lag_profile(
      cells, params, xs, lambda ys: jnp.sum(weights * ys, axis=-1), positions=positions
    )

  got = profile(xs)
  for i, position in enumerate(positions):
    upto = position % T + 1
    alone = jax.jit(
      lambda xs, i=i: lag_profile(cells, params, xs, lambda y: jnp.sum(weights[i] * y, axis=-1))
    )(xs[:upto])
    for a, b in zip(*map(jax.tree.leaves, (got, alone)), strict=True):
      np.testing.assert_allclose(a[i, :upto], b, rtol=1e-12)
      assert np.all(np.isnan(a[i, upto:]))


@pytest.mark.parametrize(
  ("positions", "error", "text"),
  [
    ([], ValueError, "positions must hold at least one step, got none."),
    (T, ValueError, f"positions must be below T = {T}, got {T}."),
    ([0, -T - 1], ValueError, f"positions must be at least -{T}, got {-T - 1}."),
    ([0, 1.5], TypeError, "positions must be an integer, got 1.5."),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_positions_must_be_steps(positions, error, text):
  cells, params = network(["elman"], H)
  with pytest.raises(error) as caught:
    lag_profile(cells, params, draw(80, T, B, D), lambda ys: ys[..., 0], positions=positions)
  assert str(caught.value) == text


def test_an_lstms_cell_state_has_no_gradient_at_lag_zero():
  cells, params = network(["lstm", "lstm"], H)
  below, top = jax.jit(lambda xs: lag_profile(cells, params, xs, weighted))(draw(80, T, B, D))
  assert np.all(np.isneginf(top.cell[0]))
  assert np.all(np.isneginf(below.cell[0]))
  for leaf in (top.hidden, below.hidden, top.cell[1:], below.cell[1:]):
    assert np.all(np.isfinite(leaf))


# Gradients beyond the float range.


LINEAR = make_cell("elman", H, activation="linear")


@jax.jit
def linear_profile(params, xs):
  return lag_profile([LINEAR] * len(params), params, xs, lambda y: y[:, 0])


def linear_params(w_h, w_x=None):
  w_x = np.zeros_like(w_h) if w_x is None else w_x
  return {"w_x": jnp.asarray(w_x, float), "w_h": jnp.asarray(w_h, float), "b": jnp.zeros(len(w_h))}


def orthogonal(width, seed):
  return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


@pytest.mark.parametrize("log_end", [-900, 900])
def test_profile_of_a_scaled_orthogonal_recurrence_is_linear_in_the_lag(log_end):
  num_steps = 5000
  lag = np.arange(num_steps)
  slope = log_end / (num_steps - 1)
  params = linear_params(10**slope * orthogonal(H, 0))
  (profile,) = linear_profile([params], jnp.zeros((num_steps, 1, H)))
  assert profile.dtype == np.float32
  np.testing.assert_allclose(profile[:, 0], slope * lag, rtol=1e-4, atol=1e-5)


def test_profile_in_float64_has_float64_precision(x64):
  (profile,) = linear_profile([linear_params(0.5 * np.eye(H))], jnp.zeros((2001, 1, H)))
  np.testing.assert_allclose(profile[:, 0], np.arange(2001) * np.log10(0.5), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
  "gains", [(1.0, 0.1), (0.1, 1.0), (1.0, 10.0), (10.0, 0.1), (1.0, 0.1, 1.0), (0.1, 10.0, 0.1)]
)
def test_profile_of_deep_linear_networks_is_right_if_layers_differ_widely_in_scale(gains):
  # The gradients reach 10^±200, far outside the float32 range but within the float64 range of the
  # reference below.
  num_steps = 201
  w_xs = [orthogonal(H, 10 + i) for i in range(len(gains))]
  w_hs = [gain * orthogonal(H, 20 + i) for i, gain in enumerate(gains)]
  params = [linear_params(w_h, w_x) for w_x, w_h in zip(w_xs, w_hs, strict=True)]
  profile = linear_profile(params, jnp.zeros((num_steps, 1, H)))

  y_bars = np.zeros((num_steps, H))
  y_bars[-1, 0] = 1
  for got, w_x, w_h in reversed(list(zip(profile, w_xs, w_hs, strict=True))):
    totals, later = np.zeros_like(y_bars), np.zeros(H)
    for t in reversed(range(num_steps)):
      totals[t] = y_bars[t] + w_h @ later
      later = totals[t]
    largest = np.max(np.abs(totals), axis=-1, keepdims=True)
    norms = np.log10(largest[:, 0]) + np.log10(np.linalg.norm(totals / largest, axis=-1))
    np.testing.assert_allclose(got[:, 0], norms[::-1], rtol=1e-4, atol=1e-4)
    y_bars = totals @ w_x.T


def test_examples_are_independent():
  cells, params = network(["lstm", "gru"], H)
  xs = draw(80, T, B, D)

  @jax.jit
  def profile(scale):
    scales = jnp.stack([jnp.ones(()), scale])
    return lag_profile(cells, params, xs, lambda y: scales * weighted(y))

  plain = jax.tree.leaves(profile(1.0))
  for other in (1e-30, 1e30, 0.0, np.nan, np.inf):
    for one, two in zip(plain, jax.tree.leaves(profile(other)), strict=True):
      np.testing.assert_array_equal(one[:, 0], two[:, 0])


def test_examples_of_very_different_size_are_independent():
  cells, params = network(["elman", "gru"], H)
  xs = draw(80, T, B, D)
  profile = jax.jit(lambda xs: lag_profile(cells, params, xs, lambda y: y[:, 0]))
  moved = profile(xs.at[:, 1].mul(1e6))
  for one, two in zip(profile(xs), moved, strict=True):
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert not np.array_equal(one[:, 1], two[:, 1])


def test_scale_of_the_loss_shifts_the_profile():
  cells, params = network(["lstm", "elman"], H)
  xs = draw(80, T, B, D)

  @jax.jit
  def profile(scale):
    return lag_profile(cells, params, xs, lambda y: scale * weighted(y))

  for one, two in zip(*(jax.tree.leaves(profile(s)) for s in (1.0, 1e-25)), strict=True):
    np.testing.assert_allclose(two, one - 25, rtol=1e-5)


def test_zero_cotangent_gives_minus_infinity_in_every_layer():
  cells, params = network(["lstm", "gru"], H)
  nothing = jax.jit(lambda xs: lag_profile(cells, params, xs, lambda y: 0 * y[:, 0]))
  profile = nothing(draw(80, T, B, D))
  for leaf in jax.tree.leaves(profile):
    assert np.all(np.isneginf(leaf))


def test_a_gradient_that_vanishes_stays_at_minus_infinity():
  shift = np.diag(np.ones(H - 1), -1)  # nilpotent: its H-th power is zero
  (profile,) = linear_profile([linear_params(shift)], jnp.zeros((T, 1, H)))
  np.testing.assert_allclose(profile[:, 0], [0] * H + [-np.inf] * (T - H), atol=1e-6)


def test_tokens_are_their_one_hot_vectors():
  cells, params = network(["gru", "lstm"], H, input_size=5)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (T, B)))
  profile = jax.jit(lambda xs: lag_profile(cells, params, xs, weighted))
  one_hot = profile(jnp.asarray(np.eye(5)[tokens], float))
  for a, b in zip(*map(jax.tree.leaves, (profile(tokens), one_hot)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_profile_composes_with_jit_and_vmap():
  cells, params = network(["elman"], H)
  stacked = jnp.stack([draw(80, T, B, D), draw(81, T, B, D)])

  def hidden(xs):
    return lag_profile(cells, params, xs, weighted)[0]

  alone = jnp.stack([jax.jit(hidden)(xs) for xs in stacked])
  np.testing.assert_allclose(jax.jit(jax.vmap(hidden))(stacked), alone, atol=1e-5)


def test_one_step_has_one_lag():
  cells, params = network(["gru", "elman"], H)
  profile = jax.jit(lambda xs: lag_profile(cells, params, xs, weighted))(draw(80, 1, B, D))
  assert all(leaf.shape == (1, B) for leaf in profile)
  expected = probed_profile(cells, params, draw(80, 1, B, D), weighted)
  for a, b in zip(profile, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
