"""DeltaNet and gated DeltaNet: equations in NumPy, and the eigenvalues of their step Jacobians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import B, D, H, T, check, draw, sigmoid

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import step_jacobians
from rnn_jax.testing import Example, check_gates

EPSILON = 1e-6


def unit(a):
  a = a * sigmoid(a)
  return a / np.sqrt((a**2).sum(-1, keepdims=True) + EPSILON)


def reference(num_heads, largest, params, carry, x):
  """Applies the transition matrix α (I − β kᵀ k), which the cell never forms."""
  size, s, ys = H // num_heads, np.empty_like(carry), []
  parts = np.split(x @ params["w_x"][:, : 3 * H], 3, axis=-1)
  q, k, v = (part.reshape(len(x), num_heads, size) for part in parts)
  q, k = unit(q), unit(k)
  rates = x @ params["w_x"][:, 3 * H :]
  beta, alpha = largest * sigmoid(rates[:, :num_heads]), np.ones((len(x), num_heads))
  if "log_rate" in params:
    softplus = np.log1p(np.exp(rates[:, num_heads:] + params["step_bias"]))
    alpha = np.exp(-np.exp(params["log_rate"]) * softplus)
  for b in range(len(x)):
    for n in range(num_heads):
      key = k[b, n]
      transition = alpha[b, n] * (np.eye(size) - beta[b, n] * np.outer(key, key))
      s[b, n] = transition @ carry[b, n] + beta[b, n] * np.outer(key, v[b, n])
      ys.append(q[b, n] @ s[b, n])
  return s, np.reshape(ys, (len(x), H))


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
@pytest.mark.parametrize(("num_heads", "negative"), [(1, False), (2, True)])
def test_cell_matches_its_equation(x64, name, num_heads, negative):
  cell = make_cell(name, H, num_heads=num_heads, negative_eigenvalues=negative)
  check(cell, lambda *args: reference(num_heads, 1 + negative, *args))


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
@pytest.mark.parametrize("negative", [False, True])
def test_eigenvalues_of_the_step_jacobian(x64, name, negative):
  cell = make_cell(name, 6, num_heads=2, negative_eigenvalues=negative)
  random = np.random.default_rng(1)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, jnp.float64)), 0.9)
  xs = 3 * random.standard_normal((T, B, D))
  (jacobians,) = jax.jit(lambda xs: step_jacobians([cell], [params], xs))(xs)
  drive = cell.project(params, xs)
  np.testing.assert_allclose(jacobians, jacobians.swapaxes(2, 3), atol=1e-14)
  alpha = np.ones_like(drive.rate) if drive.decay is None else drive.decay
  along = alpha * (1 - drive.rate * (np.asarray(drive.key) ** 2).sum(-1))
  # 2 heads of 3 units: each has α six times and α (1 − β) three times.
  expected = np.concatenate([np.repeat(alpha, 6, axis=-1), np.repeat(along, 3, axis=-1)], axis=-1)
  np.testing.assert_allclose(np.linalg.eigvalsh(jacobians), np.sort(expected), atol=1e-13)
  assert np.abs(expected).max() <= 1
  assert (expected.min() < -0.1) == negative


def test_steps_with_the_largest_rate_are_reflections(x64):
  cell = make_cell("delta_net", 4, negative_eigenvalues=True)
  xs = jax.random.normal(jax.random.key(1), (30, D))
  drive = cell.project(cell.init(jax.random.key(0), D), xs)
  length = jnp.linalg.norm(drive.key, axis=-1, keepdims=True)
  drive = drive._replace(key=drive.key / length, rate=2 * jnp.ones_like(drive.rate))

  @jax.jit
  @jax.jacrev
  def jacobian(s):
    return jax.lax.scan(lambda s, now: (cell.update({}, s, now, ()), None), s, drive)[0]

  matrix = jacobian(jnp.zeros((1, 4, 4))).reshape(16, 16)
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-12)


def test_a_memory_returns_the_value_last_stored_under_a_key(x64):
  # With β = 1 a step replaces the value under its key and keeps those under orthogonal keys.
  cell = make_cell("delta_net", 3)
  keys, values = np.eye(3)[[0, 1, 2, 1]], np.random.default_rng(0).standard_normal((4, 3))
  like = cell.project(cell.init(jax.random.key(0), D), jnp.ones(D))
  s = jnp.zeros((1, 3, 3))
  for key, value in zip(keys, values, strict=True):
    drive = like._replace(key=jnp.array([key]), value=jnp.array([value]), rate=jnp.ones(1))
    s = cell.update({}, s, drive, ())
  for key, value in ((0, 0), (1, 3), (2, 2)):
    y = cell.output({}, s, like._replace(query=jnp.eye(3)[None, key]))
    np.testing.assert_allclose(y, values[value], atol=1e-15)


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
@pytest.mark.parametrize("scale", [0, 1e-12, 1e12])
def test_gradients_are_finite_at_inputs_of_any_size(name, scale):
  cell = make_cell(name, H)
  params = cell.init(jax.random.key(0), D)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    return jnp.sum(unroll(cell, params, jnp.full((T, B, D), scale, jnp.float32))[1])

  assert all(np.isfinite(a).all() for a in jax.tree.leaves(loss(params)))


def test_initial_decay_rates_are_those_of_the_authors_code(x64):
  params = make_cell("gated_delta_net", 4000, num_heads=4000).init(jax.random.key(0), 1)
  rate, step = np.exp(params["log_rate"]), np.logaddexp(0, params["step_bias"])
  assert 0 < rate.min() < 0.1 and 15.9 < rate.max() < 16
  np.testing.assert_allclose(rate.mean(), 8, rtol=0.03)
  assert 0.001 <= step.min() < 0.0011 and 0.095 < step.max() <= 0.1
  np.testing.assert_allclose(np.log(step).mean(), np.log(0.01), rtol=0.03)


@pytest.mark.parametrize("name", ["mlstm", "gated_delta_net"])
def test_gates_of_several_heads_have_a_value_for_each_unit(name):
  assert check_gates(Example(make_cell(name, H, num_heads=2))) is None


def test_invalid_options_are_refused(unchecked_types):
  with pytest.raises(ValueError, match="num_heads must divide hidden_size 4, got 3"):
    make_cell("delta_net", 4, num_heads=3)
  with pytest.raises(TypeError, match="negative_eigenvalues must be True or False, got 1"):
    make_cell("gated_delta_net", 4, negative_eigenvalues=1)
