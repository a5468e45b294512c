"""Tests of the share of dL/dh_t that a precision loses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from networks import draw, mean_loss, network

from rnn_jax import make_cell
from rnn_jax.gradient_flow import carry_gradients, underflow

H, B = 6, 3
V = np.array([[1.0, -0.5, 3e-2, 7e-4, 2e-5, 0.0]] * B) * np.array([[1.0], [0.03], [40.0]])
NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def last_step(ys):
  """Returns v · h at the last step, whose gradient at lag k is v (s Q)^k."""
  return jnp.sum(ys[-1] * jnp.asarray(V, ys.dtype)).astype(jnp.float32)


def shares(scale, steps, dtype, **options):
  """Returns the shares of a linear network whose kernel is `scale` times a signed permutation."""
  cell = make_cell("elman", H, activation="linear")
  q = np.roll(np.eye(H), 1, axis=1) * np.array([1, -1, 1, 1, -1, 1.0])
  params = {"w_x": jnp.zeros((1, H)), "w_h": jnp.asarray(scale * q, float), "b": jnp.zeros(H)}
  (found,) = jax.jit(
    lambda p: underflow([cell], [p], jnp.zeros((steps, B, 1)), last_step, dtype=dtype, **options)
  )(params)
  return np.asarray(found)[::-1]  # by lag


@pytest.mark.parametrize(
  ("scale", "steps", "dtype", "loss_scale"),
  [
    (0.7, 60, "float16", 1.0),
    (0.7, 60, "float16", 1024.0),
    (0.45, 140, "bfloat16", 1.0),
    (0.45, 140, "bfloat16", 2.0**20),
    (0.45, 140, "float32", 1.0),
  ],
)
def test_shares_are_those_of_the_recursion_rounded_by_hand(scale, steps, dtype, loss_scale):
  kind = NUMPY[dtype]
  factor, g = kind(scale), (V * loss_scale).astype(np.float32).astype(kind)
  # Permuting the units changes no entry's size, so the recursion is a product for each entry.
  tiny = float(ml_dtypes.finfo(kind).tiny)
  lost = []
  for _ in range(steps):
    lost.append(np.mean(np.abs(g.astype(float))[V != 0] < tiny))
    g = (g * factor).astype(kind)
    # XLA's CPU programs flush the subnormal numbers of float32 and bfloat16, but not of float16.
    g = g if dtype == "float16" else np.where(np.abs(g.astype(float)) < tiny, kind(0), g)
  lost = np.array(lost)
  assert lost[0] < 0.5 and lost[-1] == 1
  np.testing.assert_allclose(
    shares(scale, steps, dtype, loss_scale=loss_scale), lost, rtol=1e-6, atol=0
  )


@pytest.mark.parametrize(
  ("dtype", "log2_tiny"), [("float16", -14), ("bfloat16", -126), ("float32", -126)]
)
@pytest.mark.parametrize("loss_scale", [1.0, 2.0**10])
def test_the_lag_of_loss_is_the_closed_form(dtype, log2_tiny, loss_scale):
  """Each entry is |v| 2^−k at lag k, and lost where this times the loss scale is below tiny."""
  found = shares(0.5, 160, dtype, loss_scale=loss_scale)
  exact = np.abs(V[V != 0]) * loss_scale * 2.0 ** -np.arange(160.0)[:, None]
  # An entry within a rounding error of tiny may fall on either side.
  low, high = (np.mean(exact * f < 2.0**log2_tiny, axis=1) for f in (1.01, 0.99))
  assert (low <= found + 1e-6).all() and (found <= high + 1e-6).all()


def test_a_deep_network_with_several_leaves_and_a_mean_loss(x64):
  """Compares with float64 gradients: float16's are lost where they are well below its range."""
  cells, params = network(["lstm", "gru"], 5)
  xs = draw(3, 12, 2, 2)

  def small(ys):
    return mean_loss(ys.astype(float)) * 0.3

  found = underflow(cells, params, xs, small, dtype="float16")
  exact = carry_gradients(cells, params, xs, small)
  assert jax.tree.structure(found) == jax.tree.structure(exact)
  shares = []
  for share, gradient in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
    share, size, tiny = np.asarray(share), np.abs(gradient), 2.0**-14
    # Rounding errors of the backward pass matter only near the limit.
    low, high = (np.mean(size < tiny * f, axis=(1, 2)) for f in (0.5, 2))
    flows = np.any(size > 0, axis=(1, 2))  # at fixed h, the last cell state has no effect
    np.testing.assert_array_equal(np.isnan(share), ~flows)
    assert (low <= share + 1e-6)[flows].all() and (share <= high + 1e-6)[flows].all()
    shares.append(np.mean(share[flows]))
  assert 0.05 < np.mean(shares) < 0.95
  for scaled in jax.tree.leaves(
    underflow(cells, params, xs, small, dtype="float16", loss_scale=2.0**20)
  ):
    assert np.nanmax(scaled) < 0.05


def test_complex_carries_integers_and_steps_without_gradient():
  xs = draw(3, 8, 2, 2)

  def early(ys):
    return jnp.sum(ys[:4].astype(jnp.float32) ** 2)

  for name in ("lru", "clockwork"):
    cells, params = [make_cell(name, 4)], [make_cell(name, 4).init(jax.random.key(0), 2)]
    (found,) = underflow(cells, params, xs, early, dtype="bfloat16")
    for share in jax.tree.leaves(found):
      np.testing.assert_array_equal(np.isnan(share), np.arange(8) >= 4)
      np.testing.assert_array_equal(share[:4], 0)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("options", "error", "message"),
  [
    ({"dtype": "float8_e5m2"}, ValueError, "Unknown dtype 'float8_e5m2'"),
    ({"dtype": "int8"}, TypeError, "dtype must be a float dtype, got 'int8'"),
    ({"dtype": "float16", "loss_scale": 0}, ValueError, "loss_scale must be greater than 0, got 0"),
  ],
)
def test_wrong_options_are_named(options, error, message):
  cells, params = network(["elman"], 3)
  with pytest.raises(error, match=message):
    underflow(cells, params, draw(0, 2, 1, 2), mean_loss, **options)
