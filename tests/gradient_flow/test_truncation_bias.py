"""Truncation bias, against gradients computed by hand and by `jax.grad` of a truncated unroll."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, mean_loss, network

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import truncation_bias

T, B, D, H = 6, 2, 2, 3


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def compare(cut, full):
  cosine = cut @ full / np.linalg.norm(cut) / np.linalg.norm(full)
  return cosine, np.linalg.norm(cut - full) / np.linalg.norm(full)


def test_bias_equals_that_of_plain_gradients_and_is_zero_at_full_length(x64):
  cells, params = network(["elman", "elman"], H)
  xs, ks = draw(80, T, B, D), (3, T, 1)

  @jax.jit
  def run(params, xs):
    def loss(params, k):
      ys = xs
      for cell, cell_params in zip(cells, params, strict=True):
        _, ys = unroll(cell, cell_params, ys, truncation=k)
      return mean_loss(ys)

    plain = jax.vmap(jax.grad(loss), (None, 0))(params, jnp.array([3, 1], jnp.int32))
    return (
      truncation_bias(cells, params, xs, mean_loss, truncations=ks),
      plain,
      jax.grad(loss)(params, None),
    )

  bias, plain, full = run(params, xs)
  for entry, at in ((0, 0), (2, 1)):
    cut = jax.tree.map(lambda a, at=at: a[at], plain)
    np.testing.assert_allclose(
      (bias.cosine[entry], bias.relative_error[entry]), compare(flat(cut), flat(full)), rtol=1e-10
    )
    for layer in range(2):
      np.testing.assert_allclose(
        (bias.layer_cosine[entry, layer], bias.layer_relative_error[entry, layer]),
        compare(flat(cut[layer]), flat(full[layer])),
        rtol=1e-10,
      )
    assert bias.relative_error[entry] > 0.01
  np.testing.assert_allclose(bias.cosine[1], 1, rtol=0, atol=1e-12)
  np.testing.assert_allclose(bias.relative_error[1], 0, rtol=0, atol=1e-12)


SCALAR = make_cell("elman", 1, activation="linear")
KS = list(range(1, T + 1))


@jax.jit
def scalar_bias(w, xs, scale):
  params = {"w_x": jnp.ones((1, 1), xs.dtype), "w_h": w[None, None], "b": jnp.zeros(1, xs.dtype)}
  return truncation_bias([SCALAR], [params], xs, lambda ys: scale * jnp.sum(ys[-1]), truncations=KS)


def scalar_gradient(w, xs, k):
  """Returns d h_{T−1}/d(b, w, w_x) for h_t = w h_{t−1} + w_x x_t + b, at w_x = 1 and b = 0.

  The gradient is truncated before each of the steps k, 2k, …
  """
  hs, h = [], 0.0
  for x in xs:
    hs.append(h)
    h = w * h + x
  last = len(xs) - 1
  lags = range(last % k + 1)  # the gradient of a loss at step t reaches back t mod k steps
  return sum(w**lag * np.array([1.0, hs[last - lag], xs[last - lag]]) for lag in lags)


@pytest.mark.parametrize("w", [0.7, -1.3])
def test_bias_of_a_scalar_recurrence_equals_the_hand_computed_one(x64, w):
  xs = draw(3, T, 1, 1)
  bias = scalar_bias(jnp.asarray(w), xs, 1.0)
  series = np.asarray(xs)[:, 0, 0]
  full = scalar_gradient(w, series, T)
  expected = [compare(scalar_gradient(w, series, k), full) for k in KS]
  got = np.stack([bias.cosine, bias.relative_error], axis=1)
  np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_gradients_near_the_ends_of_the_float_range_and_zero_gradients():
  w, xs = jnp.asarray(0.7), draw(3, T, 1, 1)
  plain = scalar_bias(w, xs, 1.0)
  for scale in (1e-35, 1e35):
    for got, expected in zip(scalar_bias(w, xs, scale), plain, strict=True):
      np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
  # With a loss of zero, the full gradient is zero, so cosine and relative error are undefined.
  assert all(np.all(np.isnan(leaf)) for leaf in scalar_bias(w, xs, 0.0))


def test_a_truncated_gradient_of_zero_has_relative_error_one_and_no_cosine():
  # w_x is the only param and x_0 the only nonzero input, so truncation removes the whole gradient.
  params = {"w_x": jnp.ones((1, 1))}
  cell = SCALAR._replace(
    init=lambda key, input_size, dtype=float: params,
    project=lambda p, xs, key=None: xs @ p["w_x"],
    recur=lambda p, h: jnp.float32(0.5) * h,
  )
  xs = np.zeros((T, 1, 1), np.float32)
  xs[0] = 1
  measure = functools.partial(truncation_bias, [cell], [params], truncations=[T - 1, T])
  bias = jax.jit(lambda xs: measure(xs, lambda ys: ys[-1, 0, 0]))(xs)
  np.testing.assert_array_equal(bias.relative_error, [1, 0])
  np.testing.assert_allclose(bias.cosine, [np.nan, 1], rtol=1e-6)


@pytest.mark.parametrize(
  ("ks", "exception", "message"),
  [
    ([], ValueError, r"truncations must be a list of at least one k, got \[\]"),
    (3, ValueError, r"truncations must be a list of at least one k, got 3"),
    ([1, 0], ValueError, r"truncations must be at least 1, got 0"),
    ([T, T + 1], ValueError, rf"truncations must be at most T = {T}, got {T + 1}"),
    ([2.0], TypeError, r"truncations must be an integer, got 2.0"),
    ([[1], [1, 2]], TypeError, r"truncations must be an integer, got \[1\]"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_truncations_are_named(ks, exception, message):
  cells, params = network(["elman"], H)
  with pytest.raises(exception, match=message):
    truncation_bias(cells, params, draw(80, T, B, D), mean_loss, truncations=ks)


def test_a_loss_that_is_not_a_scalar_is_refused():
  cells, params = network(["elman"], H)
  with pytest.raises(ValueError, match=r"loss must return a scalar, got \[6\]"):
    truncation_bias(cells, params, draw(80, T, B, D), lambda ys: ys[:, 0, 0], truncations=[1])
