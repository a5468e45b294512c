"""The independently recurrent network: its equation, and the range of its weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check

from rnn_jax import make_cell, unroll

K = 9


def reference(params, h, x):
  h = np.maximum(x @ params["w_x"] + params["u"] * h + params["b"], 0)
  return h, h


def bounded(params, h, x):
  bound = 2 ** (1 / 3)
  return reference({**params, "u": np.clip(params["u"], -bound, bound)}, h, x)


@pytest.mark.parametrize(
  ("options", "expected"), [({}, reference), ({"longest": 3}, bounded)], ids=["free", "bounded"]
)
def test_cell_matches_its_equation(x64, options, expected):
  check(make_cell("indrnn", H, **options), expected, scale=1.5)


def test_recurrent_weights_are_initialized_uniformly_in_their_range():
  u = make_cell("indrnn", 4000, low=0.9, high=1.1).init(jax.random.key(0), 1)["u"]
  assert 0.9 <= u.min() < 0.901 and 1.099 < u.max() <= 1.1
  np.testing.assert_allclose(u.mean(), 1, atol=0.004)


def final(cell, params, h):
  return unroll(cell, params, jnp.zeros((K, 1, D)), h)[0][0]


def test_k_steps_scale_the_gradient_by_the_kth_power_of_the_weight(x64):
  u = np.array([0.3, 0.9, 1, 1.1])
  params = {"w_x": jnp.zeros((D, H)), "u": jnp.asarray(u), "b": jnp.ones(H)}
  cell = make_cell("indrnn", H)
  jacobian = jax.jit(jax.jacrev(lambda h: final(cell, params, h)))(jnp.ones((1, H)))[:, 0]
  np.testing.assert_allclose(jacobian, np.diag(u**K), rtol=1e-14, atol=0)


def test_clipped_weights_get_the_gradient_at_the_bound(x64):
  bound = 2 ** (1 / K)
  params = {"w_x": jnp.zeros((D, H)), "u": jnp.array([3, -3, 0.5, 1]), "b": jnp.ones(H)}
  inside = {**params, "u": jnp.clip(params["u"], -bound, bound)}

  def loss(cell, params):
    return jnp.sum(final(cell, params, jnp.ones((1, H))))

  kept, free = make_cell("indrnn", H, longest=K), make_cell("indrnn", H)
  grads = jax.jit(jax.grad(lambda params: loss(kept, params)))(params)
  expected = jax.jit(jax.grad(lambda params: loss(free, params)))(inside)
  np.testing.assert_allclose(grads["u"], expected["u"], rtol=1e-14)
  assert grads["u"][0] > 0
  jacobian = jax.jit(jax.jacrev(lambda h: final(kept, params, h)))(jnp.ones((1, H)))
  np.testing.assert_allclose(jacobian[0, 0, 0], 2, rtol=1e-14)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"low": 0.5, "high": 0.4}, "high must be at least low = 0.5, got 0.4"),
    ({"longest": 0}, "longest must be at least 1, got 0"),
  ],
)
def test_invalid_ranges_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_cell("indrnn", H, **options)
